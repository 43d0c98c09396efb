use std::io::Write as _;

use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use proptest::{prelude::*, sample::Index};
use rstest::rstest;

use super::*;

/// A function that compresses bytes into one member.
type Compress = fn(&[u8]) -> Vec<u8>;

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let blocks = FrameInfo::new().block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(blocks, Vec::new());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Compresses with a dictionary of that many bytes.
fn xz_of(bytes: &[u8], dictionary: u32) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = dictionary;
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("memory");
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    xz_of(bytes, 1 << 20)
}

const SKIPPABLE: &[u8] = b"\x5a\x2a\x4d\x18\x03\0\0\0any";

/// Returns what is read of a file, and the kind of the error at its end.
fn read(file: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut source = Bytes::open(file).expect("memory");
    let mut plain = Vec::new();
    let end = io::copy(&mut source, &mut plain);
    (plain, end.err().map(|error| error.kind()))
}

/// Returns bytes that do not compress to almost nothing, and are longer than a block of lz4 and
/// bzip2.
fn sample() -> Vec<u8> {
    (0..100_000_u32)
        .flat_map(|number| {
            number
                .wrapping_mul(0x9e37_79b1)
                .rotate_left(number % 32)
                .to_le_bytes()
        })
        .collect()
}

#[rstest]
#[case::zstd(zstd, Format::Zstd)]
#[case::gzip(gzip, Format::Gzip)]
#[case::bzip2(bzip2, Format::Bzip2)]
#[case::lz4(lz4, Format::Lz4)]
#[case::xz(xz, Format::Xz)]
fn members_are_read_one_after_the_other(#[case] compress: Compress, #[case] format: Format) {
    let plain = sample();
    let (one, two) = plain.split_at(150_000);
    let file = [compress(one), compress(b""), compress(two)].concat();
    assert_eq!(Format::of(&file[..]).expect("readable"), Some(format));
    assert!(read(&file) == (plain.clone(), None));
    if matches!(format, Format::Zstd | Format::Lz4) {
        let parts = [
            SKIPPABLE,
            SKIPPABLE,
            &compress(one),
            SKIPPABLE,
            &compress(two),
            SKIPPABLE,
        ];
        let file = parts.concat();
        assert_eq!(Format::of(&file[..]).expect("readable"), Some(format));
        assert!(read(&file) == (plain, None));
    }
}

#[test]
fn what_is_not_compressed_is_read_as_it_is() {
    for plain in [&b""[..], b"\0", b"BZ", &sample()] {
        assert!(read(plain) == (plain.to_vec(), None));
    }
}

#[test]
fn members_may_be_of_different_formats() {
    let file = [
        gzip(b"one "),
        vec![0; 512],
        bzip2(b"two "),
        lz4(b"three "),
        xz(b"four"),
    ]
    .concat();
    assert_eq!(read(&file), (b"one two three four".to_vec(), None));
    let file = [gzip(b"one"), b"two".to_vec()].concat();
    assert_eq!(read(&file), (b"one".to_vec(), Some(ErrorKind::InvalidData)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_cut_file_gives_what_is_there_and_says_that_it_is_cut(cut in any::<Index>()) {
        let plain = sample();
        // lz4 cannot tell a cut between two blocks from the end.
        let forms: [(Compress, bool); 5] = [(zstd, true), (gzip, true), (bzip2, true), (lz4, false), (xz, true)];
        for (compress, told) in forms {
            let mut file = compress(&plain);
            let whole = file.len();
            file.truncate(cut.index(whole - 20) + 12);
            let (read, end) = read(&file);
            prop_assert!(plain.starts_with(&read));
            prop_assert!(end == Some(ErrorKind::UnexpectedEof) || (end.is_none() && !told), "{end:?}");
            // Everything is read except the block that was cut, which has at most 100,000 bytes.
            let share = plain.len() * file.len() / whole;
            prop_assert!(read.len() + 200_000 > share, "{} of {share}", read.len());
        }
    }

    #[test]
    fn damage_is_an_error_or_changes_what_is_read(at in any::<Index>(), bit in 0..8_u32) {
        let plain = sample();
        let forms: [Compress; 5] = [zstd, gzip, bzip2, lz4, xz];
        for compress in forms {
            let mut file = compress(&plain);
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            let (_, end) = read(&file);
            prop_assert!(end.is_none_or(|kind| matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof)), "{end:?}");
        }
    }
}

#[test]
fn what_takes_too_much_memory_is_refused_with_a_way_out() {
    // A frame with a window of 256 MiB, and one of 128 MiB: frame header, then an empty last block.
    let window = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0];
    assert_eq!(read(&window(27)), (Vec::new(), None));
    let mut file = xz(b"small");
    // The header of the first block follows that of the stream (12 bytes): size, flags, filter,
    // size of properties, and the dictionary (37: 1.5 GiB), then zeros and a CRC.
    file[16] = 37;
    let crc = crc32(&file[12..20]);
    file[20..24].copy_from_slice(&crc.to_le_bytes());
    for file in [&window(28)[..], &file] {
        let mut source = Bytes::open(file).expect("memory");
        let error = source.read(&mut [0; 9]).expect_err("too much");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("128 MiB"), "{error}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
