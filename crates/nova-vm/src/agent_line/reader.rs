//! What arrives from the guest, turned into replies and log lines, or into the end of the line.
use super::Line;
use nova_proto::{Frame, FrameDecoder, Message};
use std::io;
use std::sync::Arc;
use tokio::net::UnixStream;

/// How much is read at once: room for nearly every frame, and small enough for the stack, so that
/// an idle line holds no buffer.
const READ_BYTES: usize = 32 * 1024;

/// Reads until the connection or the guest's good behaviour ends, then closes the line.
pub(super) async fn run(stream: Arc<UnixStream>, line: Arc<Line>) {
    let reason = match read(&stream, &line).await {
        Ok(()) => "the guest closed the connection".to_owned(),
        Err(ReadError::Io(error)) => format!("reading from the guest failed: {error}"),
        Err(ReadError::Protocol(what)) => format!("the guest broke the protocol: {what}"),
    };
    line.calls.close(&reason);
}

enum ReadError {
    Io(io::Error),
    Protocol(String),
}

async fn read(stream: &UnixStream, line: &Line) -> Result<(), ReadError> {
    let mut decoder = FrameDecoder::default();
    let mut large = false;
    loop {
        stream.readable().await.map_err(ReadError::Io)?;
        let count = match pull(stream, &mut decoder) {
            Ok(0) if decoder.is_empty() => return Ok(()),
            Ok(0) => return Err(ReadError::Protocol("it stopped in the middle of a frame".into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(ReadError::Io(error)),
        };
        large |= count == READ_BYTES;
        while let Some(frame) =
            decoder.next_frame().map_err(|error| ReadError::Protocol(error.to_string()))?
        {
            deliver(line, &frame).map_err(ReadError::Protocol)?;
        }
        if large && decoder.is_empty() {
            // Its buffer has grown to the size of a large frame; an idle line keeps nothing.
            decoder = FrameDecoder::default();
            large = false;
        }
    }
}

/// Moves what has arrived into the decoder: the number of bytes, 0 at the end of the stream.
fn pull(stream: &UnixStream, decoder: &mut FrameDecoder) -> io::Result<usize> {
    let mut buffer = [0; READ_BYTES];
    let count = stream.try_read(&mut buffer)?;
    decoder.push(&buffer[..count]);
    Ok(count)
}

fn deliver(line: &Line, frame: &Frame) -> Result<(), String> {
    match Message::decode(frame).map_err(|error| error.to_string())? {
        Message::Resp(reply) => line.calls.reply(frame.id, reply),
        Message::Log(log) => line.calls.log(frame.id, log.lines),
        Message::Chunk(chunk) => line.calls.chunk(frame.id, chunk),
        Message::Init(_)
        | Message::Exec(_)
        | Message::Ping
        | Message::Stop
        | Message::Cancel
        | Message::Credit(_)
        | Message::Reconfigure(_)
        | Message::Export => Err(format!("a guest may not send messages of type {}", frame.kind)),
    }
}
