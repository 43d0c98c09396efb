//! Memory of batches. It is reused when every output has finished with it, so in steady state no
//! batch is allocated or grown.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most buffers that are kept for reuse; the outputs free the others.
const KEPT: usize = 4;

/// Buffers that outputs use, oldest first.
#[derive(Debug, Default)]
pub(super) struct Buffers(VecDeque<Bytes>);

impl Buffers {
    /// Returns an empty buffer.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let free = self.0.pop_front_if(|oldest| oldest.is_unique());
        match free.map(Bytes::try_into_mut) {
            Some(Ok(mut free)) => {
                free.clear();
                free.into()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the content of a buffer for the outputs.
    pub(super) fn lend(&mut self, frames: Vec<u8>) -> Bytes {
        let frames = Bytes::from(frames);
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(frames.clone());
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_outputs_are_done_with_it() {
        let mut buffers = Buffers::default();
        let mut first = Vec::with_capacity(1_000);
        first.extend_from_slice(b"frames");
        let place = first.as_ptr();
        let lent = buffers.lend(first);
        assert_eq!(buffers.take().capacity(), 0, "it is still being written");
        drop(lent);
        let again = buffers.take();
        assert_eq!(
            (again.as_ptr(), again.len(), again.capacity()),
            (place, 0, 1_000)
        );
    }

    #[test]
    fn slow_outputs_keep_no_more_than_they_hold() {
        let mut buffers = Buffers::default();
        let lent: Vec<_> = (0..100).map(|_| buffers.lend(vec![7; 10])).collect();
        assert_eq!(buffers.0.len(), KEPT);
        assert!(lent[0].is_unique());
    }
}
