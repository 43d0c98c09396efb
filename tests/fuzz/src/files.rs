//! Files from other programs, compressed or not. Reading ends, for pieces of any size, and always with the same frames
//! and faults. A file that is followed has the same frames as a file that is read once.
//!
//! The check is less strict for a file that is damaged from some place on: the number of bytes that are decompressed
//! before that place depends on the pieces.
//!
//! The input begins with a byte that tells what the rest is: a file as it is, or Frame Streams that are compressed
//! here, in as many zstd frames as the next byte says.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use dnstap_agent::sources::{
    Item, Source,
    file::{Fault, Files, Followed},
};

use dnstap_proto::frame_streams::ReadError;

use crate::input::Input;

/// Longest data frame: it is small, so that the fuzzer soon finds a frame that is too long.
const LIMIT: u32 = 2_000;

/// Runs the target.
///
/// # Panics
///
/// If a check fails, or a temporary file cannot be made.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (is_compressed_here, size) = (input.byte() % 2 == 1, input.byte());
    let content = if is_compressed_here {
        compressed(input.rest(), size)
    } else {
        input.rest().to_vec()
    };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&content).expect("room for it");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));

    let at_once = read(&path, usize::MAX);
    let in_pieces = read(&path, usize::from(size).max(1));
    let is_damaged = at_once.iter().chain(&in_pieces).any(is_damage);
    if is_damaged {
        let pairs = frames(&at_once).zip(frames(&in_pieces));
        pairs.for_each(|(one, other)| assert_eq!(one, other));
    } else {
        assert_eq!(in_pieces, at_once);
    }
    // A plain stream after such a frame is read, but not followed.
    let is_skippable = matches!(content[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if is_damaged || is_skippable {
        return;
    }
    let followed = follow(&path);
    if !at_once.iter().chain(&followed).any(is_refusal) {
        assert!(frames(&followed).eq(frames(&at_once)));
    }
}

/// Compresses a stream in zstd frames of this many bytes each.
fn compressed(stream: &[u8], size: u8) -> Vec<u8> {
    let pieces = stream.chunks(usize::from(size).max(1) * 8);
    let pieces = pieces.map(|piece| zstd::encode_all(piece, 1).expect("memory"));
    pieces.flatten().collect()
}

/// Item from a source.
#[derive(Debug, PartialEq)]
enum Seen {
    /// A frame: its offset and its payload.
    Frame(u64, Vec<u8>),
    /// A fault, as its text.
    Fault(String),
    /// The rest of the file cannot be decompressed.
    Damage,
    /// The file cannot be read or cannot be followed.
    Refusal,
}

fn frames(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    seen.iter().filter(|seen| matches!(seen, Seen::Frame(..)))
}

const fn is_damage(seen: &Seen) -> bool {
    matches!(seen, Seen::Damage)
}

const fn is_refusal(seen: &Seen) -> bool {
    matches!(seen, Seen::Refusal)
}

/// Reads the file once, this many bytes at a time.
fn read(path: &Path, piece: usize) -> Vec<Seen> {
    let opened = (path.to_path_buf(), File::open(path).map_err(Into::into));
    let through = |file| Box::new(Pieces(file, piece)) as Box<dyn Read>;
    let mut files = Files::new([opened].into_iter(), through, LIMIT);
    let mut seen = Vec::new();
    while !files.is_over() {
        next(&mut files, &mut seen);
    }
    seen
}

/// Follows the file, which does not change, to its end.
fn follow(path: &Path) -> Vec<Seen> {
    let mut followed = Followed::open(path, LIMIT).expect("it is open already");
    let mut seen = Vec::new();
    while !followed.is_over() {
        let (before, was_waiting) = (seen.len(), followed.is_waiting());
        next(&mut followed, &mut seen);
        if was_waiting && followed.is_waiting() && seen.len() == before {
            break;
        }
    }
    seen
}

fn next(source: &mut impl Source, seen: &mut Vec<Seen>) {
    source.drain(false, &mut |item| match item {
        Item::Row(_, row) => {
            let frames = row.payloads();
            seen.extend(frames.map(|(place, payload)| Seen::Frame(place, payload.to_vec())));
        }
        Item::Fault(_, Fault::Unread(_)) => seen.push(Seen::Refusal),
        Item::Fault(
            _,
            Fault::Damaged {
                error: ReadError::Io { source, .. },
                ..
            },
        ) if source.kind() == ErrorKind::InvalidData => seen.push(Seen::Damage),
        Item::Fault(_, fault) => seen.push(Seen::Fault(format!("{fault:?}"))),
        other => panic!("no file has {other:?}"),
    });
}

/// A file that returns at most this many bytes at a time.
struct Pieces(File, usize);

impl Read for Pieces {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let length = room.len().min(self.1);
        self.0.read(&mut room[..length])
    }
}
