//! A hostile peer's byte stream, in pieces: never a panic, never more held than was sent, and every
//! message that is understood survives being sent again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use nova_proto::{FrameDecoder, Message};

fuzz_target!(|input: &[u8]| {
    // The first byte says where the stream is cut.
    let Some((&cut, stream)) = input.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    for piece in stream.chunks(usize::from(cut).max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => understand(&frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});

fn understand(frame: &nova_proto::Frame) {
    let Ok(message) = Message::decode(frame) else { return };
    // Re-encoding may be refused for its size (a number may grow), but not change the meaning.
    let Ok(bytes) = message.encode(frame.id) else { return };
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    let again = decoder.next_frame().expect("a frame").expect("a whole one");
    let again = Message::decode(&again).expect("a message");
    assert_eq!(again.kind(), message.kind());
}
