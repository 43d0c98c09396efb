//! Control frames, which delimit and negotiate a stream.
//!
//! This module encodes them, and decodes them from any bytes without a panic. Fields that the format does not define
//! are ignored: a later version may have them. Reading and writing both respect the limits, so no control frame is
//! longer than 520 bytes, including the escape and the length.

use bytes::{Buf as _, Bytes};

use super::{ControlError, MAX_CONTENT_TYPE, MAX_CONTROL_FRAME, be32};

const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;
const FINISH: u32 = 5;

/// The only known field.
const FIELD_CONTENT_TYPE: u32 = 1;

/// A control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// Receiver to sender: the content types of READY that the receiver takes; none means any.
    Accept {
        /// At most 256 bytes each.
        content_types: Vec<Bytes>,
    },
    /// Sender to receiver, or first in a file: data frames follow.
    Start {
        /// Content type of the data frames, at most 256 bytes; `None`: not specified.
        content_type: Option<Bytes>,
    },
    /// Sender to receiver, or last in a file: no data frame follows.
    Stop,
    /// Sender to receiver: the content types that it can send; none means any.
    Ready {
        /// At most 256 bytes each.
        content_types: Vec<Bytes>,
    },
    /// Receiver to sender: everything up to STOP has arrived.
    Finish,
}

impl ControlFrame {
    /// Returns the format's name of the frame, for log messages and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "ACCEPT",
            Self::Start { .. } => "START",
            Self::Stop => "STOP",
            Self::Ready { .. } => "READY",
            Self::Finish => "FINISH",
        }
    }

    /// Appends the frame to `out`: the escape, the length, the frame. On an error `out` is unchanged.
    ///
    /// When fstrm writes, its limit of 512 bytes includes the eight bytes before the frame; this function does the
    /// same.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ControlError> {
        let content_types = self.content_types();
        if let Some(long) = content_types
            .iter()
            .find(|content_type| content_type.len() > MAX_CONTENT_TYPE as usize)
        {
            let len = long.len() as u64;
            return Err(ControlError::ContentTypeTooLong { len });
        }
        let fields: usize = content_types.iter().map(|field| 8 + field.len()).sum();
        let len = 4 + fields;
        let Some(frame_len) = u32::try_from(len)
            .ok()
            .filter(|len| 8 + len <= MAX_CONTROL_FRAME)
        else {
            return Err(ControlError::TooLong {
                len: 8 + len as u64,
            });
        };

        out.reserve(8 + len);
        for number in [0, frame_len, self.code()] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for content_type in content_types {
            out.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked above: at most 256"
            )]
            out.extend_from_slice(&(content_type.len() as u32).to_be_bytes());
            out.extend_from_slice(content_type);
        }
        Ok(())
    }

    /// Decodes a control frame. `frame` is the bytes after the escape and the length. The content types share its
    /// memory.
    ///
    /// Of a frame with an unknown type ([`ControlError::UnknownType`]) only the type is read.
    pub fn decode(mut frame: Bytes) -> Result<Self, ControlError> {
        let len = frame.len() as u64;
        if len > u64::from(MAX_CONTROL_FRAME) {
            return Err(ControlError::TooLong { len });
        }
        let truncated = ControlError::Truncated { len };

        let code = take_be32(&mut frame).ok_or_else(|| truncated.clone())?;
        if !(ACCEPT..=FINISH).contains(&code) {
            return Err(ControlError::UnknownType(code));
        }
        let mut content_types = Vec::new();
        while !frame.is_empty() {
            let field = take_be32(&mut frame).ok_or_else(|| truncated.clone())?;
            let field_len = take_be32(&mut frame).ok_or_else(|| truncated.clone())?;
            if field == FIELD_CONTENT_TYPE && field_len > MAX_CONTENT_TYPE {
                let len = u64::from(field_len);
                return Err(ControlError::ContentTypeTooLong { len });
            }
            if field_len as usize > frame.len() {
                return Err(truncated);
            }
            let value = frame.split_to(field_len as usize);
            if field == FIELD_CONTENT_TYPE {
                content_types.push(value);
            }
        }

        let count = content_types.len();
        let at_most = |limit: usize, frame: Self| {
            if count > limit {
                let frame = frame.name();
                return Err(ControlError::TooManyContentTypes { frame, count });
            }
            Ok(frame)
        };
        match code {
            ACCEPT => Ok(Self::Accept { content_types }),
            READY => Ok(Self::Ready { content_types }),
            START => {
                let content_type = content_types.pop();
                at_most(1, Self::Start { content_type })
            }
            STOP => at_most(0, Self::Stop),
            FINISH => at_most(0, Self::Finish),
            other => Err(ControlError::UnknownType(other)),
        }
    }

    const fn code(&self) -> u32 {
        match self {
            Self::Accept { .. } => ACCEPT,
            Self::Start { .. } => START,
            Self::Stop => STOP,
            Self::Ready { .. } => READY,
            Self::Finish => FINISH,
        }
    }

    fn content_types(&self) -> &[Bytes] {
        match self {
            Self::Accept { content_types } | Self::Ready { content_types } => content_types,
            Self::Start { content_type } => content_type.as_slice(),
            Self::Stop | Self::Finish => &[],
        }
    }
}

fn take_be32(bytes: &mut Bytes) -> Option<u32> {
    let number = be32(bytes, 0)?;
    bytes.advance(4);
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_control_frame_reads_back_as_it_was_written(frame in control_frame()) {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes).unwrap();
            prop_assert!(bytes.len() <= 512);
            prop_assert_eq!(be32(&bytes, 0), Some(0));
            prop_assert_eq!(be32(&bytes, 4).unwrap() as usize, bytes.len() - 8);
            prop_assert_eq!(ControlFrame::decode(Bytes::from(bytes).slice(8..)), Ok(frame));
        }

        #[test]
        fn any_bytes_decode_to_a_frame_or_an_error(
            head in prop_oneof![vec(any::<u8>(), 0..12), (0..7_u8, 0..3_u8).prop_map(|(code, field)| vec![0, 0, 0, code, 0, 0, 0, field])],
            tail in vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..520),
        ) {
            let bytes = Bytes::from([head, tail].concat());
            if let Ok(frame) = ControlFrame::decode(bytes.clone()) {
                // Encoding the decoded frame gives the same bytes, except for unknown fields and for the stricter limit
                // of writing.
                let mut again = Vec::new();
                if frame.encode(&mut again).is_ok() {
                    prop_assert!(again.len() - 8 < bytes.len() || again[8..] == bytes[..]);
                }
            }
        }
    }

    #[test]
    fn start_and_stop_are_the_bytes_that_fstrm_writes() {
        let mut bytes = Vec::new();
        let content_type = Some(Bytes::from_static(super::super::DNSTAP_CONTENT_TYPE));
        ControlFrame::Start { content_type }
            .encode(&mut bytes)
            .unwrap();
        let start = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
        assert_eq!(bytes, start);

        bytes.clear();
        ControlFrame::Stop.encode(&mut bytes).unwrap();
        assert_eq!(bytes, b"\0\0\0\0\0\0\0\x04\0\0\0\x03");
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let decode = |bytes: &'static [u8]| ControlFrame::decode(Bytes::from_static(bytes));
        let truncated = |len| Err(ControlError::Truncated { len });

        assert_eq!(decode(b""), truncated(0));
        assert_eq!(decode(b"\0\0\0"), truncated(3));
        assert_eq!(decode(b"\0\0\0\x02\0\0\0\x01\0"), truncated(9));
        assert_eq!(decode(b"\0\0\0\x02\0\0\0\x01\0\0\0\x02a"), truncated(13));
        assert_eq!(decode(b"\0\0\0\0"), Err(ControlError::UnknownType(0)));
        assert_eq!(decode(b"\0\0\0\x06"), Err(ControlError::UnknownType(6)));
        assert_eq!(
            decode(b"\0\0\0\x02\0\0\0\x02\0\0\0\x01"),
            truncated(12),
            "a field of another kind"
        );
        assert_eq!(
            decode(b"\0\0\0\x02\0\0\0\x01\0\0\x01\x01"),
            Err(ControlError::ContentTypeTooLong { len: 257 })
        );
        assert_eq!(
            decode(b"\0\0\0\x03\0\0\0\x01\0\0\0\0"),
            Err(ControlError::TooManyContentTypes {
                frame: "STOP",
                count: 1
            })
        );
        assert_eq!(
            decode(b"\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0"),
            Err(ControlError::TooManyContentTypes {
                frame: "START",
                count: 2
            })
        );
        assert_eq!(
            ControlFrame::decode(vec![0; 513].into()),
            Err(ControlError::TooLong { len: 513 })
        );
    }

    #[test]
    fn an_unknown_field_is_passed_over() {
        let frame = b"\0\0\0\x02\0\0\0\x07\0\0\0\x03new\0\0\0\x01\0\0\0\x01x";
        assert_eq!(
            ControlFrame::decode(Bytes::from_static(frame)),
            Ok(ControlFrame::Start {
                content_type: Some("x".into())
            })
        );
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let mut out = b"before".to_vec();
        let long = ControlFrame::Start {
            content_type: Some(vec![b'x'; 257].into()),
        };
        assert_eq!(
            long.encode(&mut out),
            Err(ControlError::ContentTypeTooLong { len: 257 })
        );
        let many = |len| ControlFrame::Ready {
            content_types: vec![vec![b'x'; len].into(); 2],
        };
        assert_eq!(
            many(243).encode(&mut out),
            Err(ControlError::TooLong { len: 514 })
        );
        assert_eq!(out, b"before");
        assert_eq!(many(242).encode(&mut out), Ok(()));
        assert_eq!(out.len(), b"before".len() + 512);
    }

    fn control_frame() -> impl Strategy<Value = ControlFrame> {
        let content_type = |limit| vec(any::<u8>(), 0..=limit).prop_map(Bytes::from);
        prop_oneof![
            vec(content_type(117), 0..5)
                .prop_map(|content_types| ControlFrame::Accept { content_types }),
            vec(content_type(117), 0..5)
                .prop_map(|content_types| ControlFrame::Ready { content_types }),
            option::of(content_type(256))
                .prop_map(|content_type| ControlFrame::Start { content_type }),
            Just(ControlFrame::Stop),
            Just(ControlFrame::Finish),
        ]
    }
}
