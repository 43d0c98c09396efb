//! Splits buffers into segments, for the calls that take several.

use std::io::{IoSlice, IoSliceMut};

/// Splits `space` into segments: the given lengths, then the rest.
pub(super) fn segments<'a>(mut space: &'a mut [u8], lengths: &[usize]) -> Vec<IoSliceMut<'a>> {
    let mut segments = Vec::new();
    for length in lengths {
        let (segment, rest) = space.split_at_mut((*length).min(space.len()));
        segments.push(IoSliceMut::new(segment));
        space = rest;
    }
    segments.push(IoSliceMut::new(space));
    segments
}

/// Splits `bytes` into segments, like [`segments`].
pub(super) fn slices<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::new();
    for length in lengths {
        let (slice, rest) = bytes.split_at((*length).min(bytes.len()));
        slices.push(IoSlice::new(slice));
        bytes = rest;
    }
    slices.push(IoSlice::new(bytes));
    slices
}
