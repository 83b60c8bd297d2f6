//! A layer's bytes: unpacked, counted and hashed while they are read.
use super::OciError;
use super::digest::{Digest, HashingReader};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::rc::Rc;

/// A layer on disk, its own digest checked already.
#[derive(Debug)]
pub(in crate::images) struct LayerFile {
    /// The file that it is, or is a part of.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Of zeros, how many are read behind a layer's end: some builders (umoci's `insert`) leave out the last
/// file's padding and the blocks that end an archive.
const PADDING_BYTES: u64 = 3 * 512;

/// How much may still be read, and whether the end was met. Shared with who gives room.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    left: Cell<u64>,
    ended: Cell<bool>,
}

impl Gauge {
    /// Gives this many bytes of room, whatever there was.
    pub fn allow(&self, bytes: u64) {
        self.left.set(bytes);
    }

    /// Whether more was asked for than there is.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

/// See [`Gauge`].
pub(super) type Allowance = Rc<Gauge>;

impl LayerFile {
    /// Hands the layer's tar to `read`, then reads what is behind it, and checks the hash of all.
    pub(super) fn read<T>(
        &self,
        expected: &Digest,
        allowance: &Allowance,
        read: impl FnOnce(&mut dyn Read) -> Result<T, OciError>,
    ) -> Result<T, OciError> {
        let unreadable = |error| OciError::file(&self.path)(error);
        let mut file = File::open(&self.path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(unreadable)?;
        let mut packed = BufReader::with_capacity(1 << 16, file.take(self.bytes));
        let unpacked: Box<dyn Read> = match packed.fill_buf().map_err(unreadable)? {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                Box::new(Zstd { source: packed, decoder: FrameDecoder::new(), inside: false })
            }
            _ => Box::new(packed),
        };
        let mut hashing = HashingReader::new(Allowed::new(unpacked, allowance.clone()));
        let padding = io::repeat(0).take(PADDING_BYTES);
        let outcome = read(&mut hashing.by_ref().chain(padding))?;
        // Padding, as a rule. It is part of what was hashed.
        io::copy(&mut hashing, &mut io::sink())
            .map_err(|error| OciError::refused(format!("a layer is broken: {error}")))?;
        let found = hashing.digest();
        if found != *expected {
            return Err(OciError::refused(format!(
                "a layer unpacks to {found}, but its configuration says {expected}"
            )));
        }
        Ok(outcome)
    }
}

/// Ends with an error, not with silence, when more is read than allowed.
pub(super) struct Allowed<R> {
    source: R,
    gauge: Allowance,
}

impl<R> Allowed<R> {
    pub fn new(source: R, gauge: Allowance) -> Self {
        Self { source, gauge }
    }
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.gauge.ended.set(read == 0 && !buffer.is_empty());
        match self.gauge.left.get().checked_sub(read as u64) {
            Some(left) => self.gauge.left.set(left),
            None => return Err(io::Error::other("it unpacks to more than an image may have")),
        }
        Ok(read)
    }
}

/// All frames of a zstd file; the decoder reads one, and some writers make many.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether the decoder is in a frame.
    inside: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if self.inside {
                let read = self.decoder.read(buffer)?;
                if read > 0 {
                    return Ok(read);
                }
                self.inside = !self.decoder.is_finished();
            }
            if self.inside {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            } else if self.source.fill_buf()?.is_empty() {
                break;
            } else {
                self.enter_frame()?;
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; what is there to be skipped is.
    fn enter_frame(&mut self) -> io::Result<()> {
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.inside = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}
