//! Unpacks the kernel out of a bzImage.
//!
//! ```text
//! 0x000 boot sector, set-up header ("HdrS" at 0x202)
//! (setup_sects + 1) * 512  the unpacking program; at payload_offset in it:
//!       02 21 4c 18 | size, block | size, block | ... | size of the kernel   (LZ4 "legacy" stream)
//! ```
use std::fmt::Display;

/// Most bytes of an unpacked kernel. Debian's has 53 MB.
const KERNEL_MAX_BYTES: usize = 512 * 1024 * 1024;
/// What an LZ4 legacy stream starts with.
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// Every block but the last unpacks to exactly this much.
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 * 1024 * 1024;
/// Where the set-up header has its magic, the count of set-up sectors, and place and length of the payload.
const MAGIC_AT: usize = 0x202;
const SETUP_SECTORS_AT: usize = 0x1f1;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
const SECTOR_BYTES: usize = 512;

/// The ELF file in a bzImage.
pub(crate) fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    if bzimage.get(MAGIC_AT..MAGIC_AT + 4) != Some(b"HdrS") {
        return Err("it is not a bzImage".into());
    }
    let setup_sectors = usize::from(bzimage[SETUP_SECTORS_AT]).max(1);
    let offset = number_at(bzimage, PAYLOAD_OFFSET_AT)? as usize;
    let length = number_at(bzimage, PAYLOAD_LENGTH_AT)? as usize;
    let start = (setup_sectors + 1) * SECTOR_BYTES + offset;
    let payload = start.checked_add(length).and_then(|end| bzimage.get(start..end));
    let payload = payload.ok_or("its payload lies outside of it")?;
    if number_at(payload, 0)? != LZ4_LEGACY_MAGIC {
        return Err("its kernel is not compressed with LZ4, as Debian's is".into());
    }
    let size_at = payload.len().checked_sub(4).ok_or("its payload is too short")?;
    let size = number_at(payload, size_at)? as usize;
    if size > KERNEL_MAX_BYTES {
        return Err(format!("its kernel claims to have {size} bytes"));
    }
    let kernel = unpack_blocks(&payload[4..size_at], size)?;
    if !kernel.starts_with(b"\x7fELF") {
        return Err("what it unpacks to is not an ELF file".into());
    }
    Ok(kernel)
}

fn unpack_blocks(mut stream: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let broken = |error: &dyn Display| format!("its LZ4 stream is broken: {error}");
    let mut kernel = Vec::with_capacity(size);
    while !stream.is_empty() {
        let length = number_at(stream, 0)? as usize;
        let block = stream[4..].get(..length).ok_or_else(|| broken(&"a block is cut short"))?;
        let expected = LZ4_LEGACY_BLOCK_BYTES.min(size - kernel.len());
        let unpacked = lz4_flex::block::decompress(block, expected).map_err(|e| broken(&e))?;
        if unpacked.is_empty() || kernel.len() + unpacked.len() > size {
            return Err(broken(&"it has more than it claims"));
        }
        kernel.extend_from_slice(&unpacked);
        stream = &stream[4 + length..];
    }
    if kernel.len() != size {
        return Err(broken(&format!("it has {} of {size} bytes", kernel.len())));
    }
    Ok(kernel)
}

fn number_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    let bytes = bytes.get(at..at + 4).ok_or("it is cut short")?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of `kernel`, as the kernel's build makes it.
    fn bzimage(kernel: &[u8]) -> Vec<u8> {
        let mut payload = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        for block in kernel.chunks(LZ4_LEGACY_BLOCK_BYTES) {
            let packed = lz4_flex::block::compress(block);
            payload.extend((packed.len() as u32).to_le_bytes());
            payload.extend(packed);
        }
        payload.extend((kernel.len() as u32).to_le_bytes());
        let mut image = vec![0; 3 * SECTOR_BYTES];
        image[SETUP_SECTORS_AT] = 1;
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        // The unpacking program has one sector before its payload.
        let (offset, length) = (SECTOR_BYTES as u32, payload.len() as u32);
        image[PAYLOAD_OFFSET_AT..PAYLOAD_OFFSET_AT + 4].copy_from_slice(&offset.to_le_bytes());
        image[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend((0..LZ4_LEGACY_BLOCK_BYTES + 5000).map(|n| (n / 7) as u8));
        kernel
    }

    #[test]
    fn a_kernel_of_several_blocks_is_unpacked() {
        assert!(vmlinux(&bzimage(&kernel())).unwrap() == kernel());
    }

    #[test]
    fn what_is_no_whole_bzimage_is_refused() {
        let whole = bzimage(&kernel());
        assert!(vmlinux(b"").is_err());
        assert!(vmlinux(&vec![0; 4096]).unwrap_err().contains("not a bzImage"));
        assert!(vmlinux(&whole[..whole.len() - 1]).unwrap_err().contains("outside"));
        for at in 3 * SECTOR_BYTES..3 * SECTOR_BYTES + 12 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            assert!(vmlinux(&damaged).is_err(), "byte {at}");
        }
        let mut lying = whole.clone();
        let last = lying.len() - 1;
        lying[last] = 0xff;
        assert!(vmlinux(&lying).unwrap_err().contains("claims"));
    }
}
