//! A fast 128-bit hash. It is not cryptographic: it does not resist deliberate collisions.

use std::io::{self, Read};

use crate::fs::read_up_to;

/// Hashes all bytes up to EOF.
pub(crate) fn hash_reader(data: &mut impl Read) -> io::Result<String> {
    // A multiple of the hash's block size, and read completely whatever the reader returns, so that
    // the hash depends on the bytes alone.
    const CHUNK_SIZE: u64 = 64 * 1024;
    let mut hash = Hash::new();
    let mut chunk = Vec::with_capacity(CHUNK_SIZE as usize);
    while read_up_to(data, CHUNK_SIZE, &mut chunk)? > 0 {
        hash.update(&chunk);
        chunk.clear();
    }
    Ok(hash.hex())
}

/// Multiplies the halves of each 16-byte block with each other, after mixing in the state, as wyhash
/// does: an image has millions of bytes, so FNV's multiplication per byte would cost more than the
/// upload. The previous state is added, so that a product of zero does not erase it.
pub(crate) struct Hash {
    state: u128,
    len: u64,
}

impl Hash {
    pub(crate) fn new() -> Self {
        Self { state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, len: 0 }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        let (blocks, rest) = data.as_chunks();
        for block in blocks {
            self.add(u128::from_le_bytes(*block));
        }
        if !rest.is_empty() {
            self.add(rest.iter().rev().fold(0, |block, &byte| block << 8 | u128::from(byte)));
        }
    }

    fn add(&mut self, block: u128) {
        let mixed = self.state ^ block;
        let (low, high) = (u128::from(mixed as u64), mixed >> 64);
        self.state = self.state.rotate_left(64).wrapping_add(low * high);
    }

    pub(crate) fn hex(mut self) -> String {
        // The length tells apart data that differ only in trailing zeros.
        self.add(self.len.into());
        format!("{:032x}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A reader that returns at most `n` bytes at a time.
    struct ShortReads<'a>(&'a [u8], usize);

    impl Read for ShortReads<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(self.1);
            self.0.read(&mut buf[..len])
        }
    }

    #[test]
    fn hash_does_not_depend_on_how_much_a_read_returns() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i * 31 + i / 7) as u8).collect();
        let expected = hash_reader(&mut data.as_slice()).unwrap();
        for n in [1, 7, 16, 65_535, 65_536, 65_537] {
            assert_eq!(hash_reader(&mut ShortReads(&data, n)).unwrap(), expected, "{n}");
        }
    }

    #[test]
    fn hash_changes_with_every_bit_and_with_the_length() {
        let data = vec![0; 70_000];
        let mut hashes = HashSet::from([hash_reader(&mut data.as_slice()).unwrap()]);
        for bit in (0..8 * data.len()).step_by(1009).chain(0..300) {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            hashes.insert(hash_reader(&mut data.as_slice()).unwrap());
        }
        // The same bit in neighboring blocks.
        for bit in 0..128 {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            data[16 + bit / 8] ^= 1 << (bit % 8);
            hashes.insert(hash_reader(&mut data.as_slice()).unwrap());
        }
        for len in [0, 1, 15, 16, 17, 65_535, 65_536, 69_999] {
            hashes.insert(hash_reader(&mut &data[..len]).unwrap());
        }
        let bits = (0..8 * data.len()).step_by(1009).chain(0..300).collect::<HashSet<_>>().len();
        assert_eq!(hashes.len(), 1 + bits + 128 + 8);
    }
}
