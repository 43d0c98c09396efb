//! RRsets that a server puts into a cache ([`CacheNotice`]).

use std::mem::offset_of;

use dnstap_ebpf::{ADD_FORCE, CacheNotice, RDATASET_NEGATIVE, RDATASET_NXDOMAIN};

use super::{names, u16_at, u32_at, u64_at};
use crate::events::responses::Wanted;

/// Largest number of a trust.
const HIGHEST_TRUST: u16 = 9;

/// An RRset, or the knowledge that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rrset<'a> {
    /// Identity of the cache.
    pub(super) database: u64,
    /// Owner in wire format.
    pub(super) owner: &'a [u8],
    pub(super) class: u16,
    /// Type; 0 for a negative entry.
    pub(super) record_type: u16,
    /// Type that signatures cover, or that does not exist.
    pub(super) covers: u16,
    pub(super) ttl: u32,
    pub(super) trust: u16,
    /// Whether it replaces data of higher trust, too.
    pub(super) is_forced: bool,
    /// Whether the records do not exist.
    pub(super) is_negative: bool,
    /// Whether the name does not exist.
    pub(super) is_nxdomain: bool,
    /// Data of the records.
    pub(super) rdata: Vec<&'a [u8]>,
    /// Number of records that are not in `rdata`.
    pub(super) omitted: u16,
}

impl<'a> Rrset<'a> {
    /// Decodes a notice of `dns_db_addrdataset`.
    pub(super) fn parse(notice: &'a [u8]) -> Option<Self> {
        let short = |at| u16_at(notice, at);
        let attributes = u32_at(notice, offset_of!(CacheNotice, attributes))?;
        let trust = short(offset_of!(CacheNotice, trust))?;
        let owner_len = usize::from(short(offset_of!(CacheNotice, owner_len))?);
        let (owner, mut rest) = notice
            .get(size_of::<CacheNotice>()..)?
            .split_at_checked(owner_len)?;
        let mut rdata = Vec::new();
        for _ in 0..short(offset_of!(CacheNotice, records))? {
            let (length, behind) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_le_bytes(*length));
            let (data, behind) = behind.split_at_checked(length)?;
            rdata.push(data);
            rest = behind;
        }
        let is_negative = attributes & RDATASET_NEGATIVE != 0;
        let record_type = short(offset_of!(CacheNotice, record_type))?;
        let is_sound = rest.is_empty()
            && names::is_name(owner)
            && trust <= HIGHEST_TRUST
            && is_negative == (record_type == 0)
            && (!is_negative || rdata.is_empty());
        is_sound.then_some(Self {
            database: u64_at(notice, offset_of!(CacheNotice, database))?,
            owner,
            class: short(offset_of!(CacheNotice, class))?,
            record_type,
            covers: short(offset_of!(CacheNotice, covers))?,
            ttl: u32_at(notice, offset_of!(CacheNotice, ttl))?,
            trust,
            is_forced: u32_at(notice, offset_of!(CacheNotice, options))? & ADD_FORCE != 0,
            is_negative,
            is_nxdomain: attributes & RDATASET_NXDOMAIN != 0,
            rdata,
            omitted: short(offset_of!(CacheNotice, omitted))?,
        })
    }

    /// Returns what a response must hold so that the RRset may come from it.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            owner: self.owner,
            class: self.class,
            record_type: if self.is_negative {
                self.covers
            } else {
                self.record_type
            },
            is_negative: self.is_negative,
            rdata: &self.rdata,
        }
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;
    use dnstap_ebpf::Function;

    /// Builds a notice of an RRset.
    pub(crate) fn notice(rrset: &Rrset<'_>) -> Vec<u8> {
        let mut behind = rrset.owner.to_vec();
        for data in &rrset.rdata {
            behind.extend(u16::try_from(data.len()).unwrap().to_le_bytes());
            behind.extend(*data);
        }
        let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        let mut notice = (Function::AddRdataset as u32).to_ne_bytes().to_vec();
        notice.extend(u32::try_from(48 + behind.len()).unwrap().to_ne_bytes());
        notice.extend(rrset.database.to_ne_bytes());
        let attributes =
            flag(rrset.is_negative, RDATASET_NEGATIVE) | flag(rrset.is_nxdomain, RDATASET_NXDOMAIN);
        for number in [flag(rrset.is_forced, ADD_FORCE), rrset.ttl, attributes] {
            notice.extend(number.to_ne_bytes());
        }
        let lengths =
            [rrset.owner.len(), rrset.rdata.len()].map(|length| u16::try_from(length).unwrap());
        for number in [
            rrset.class,
            rrset.record_type,
            rrset.covers,
            rrset.trust,
            lengths[0],
            lengths[1],
            rrset.omitted,
        ] {
            notice.extend(number.to_ne_bytes());
        }
        notice.resize(48, 0);
        notice.extend(behind);
        notice
    }

    /// Returns an RRset of type A with this owner and data.
    pub(crate) fn address<'a>(owner: &'a [u8], rdata: Vec<&'a [u8]>) -> Rrset<'a> {
        Rrset {
            database: 1,
            owner,
            class: 1,
            record_type: 1,
            covers: 0,
            ttl: 60,
            trust: 5,
            is_forced: false,
            is_negative: false,
            is_nxdomain: false,
            rdata,
            omitted: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        fixture::{address, notice},
        *,
    };

    const OWNER: &[u8] = b"\x01a\x04test\0";

    #[test]
    fn every_field_survives() {
        let rrset = Rrset {
            ttl: 3_600,
            trust: 8,
            is_forced: true,
            omitted: 3,
            ..address(OWNER, vec![&[192, 0, 2, 1], &[192, 0, 2, 2]])
        };
        assert_eq!(Rrset::parse(&notice(&rrset)).as_ref(), Some(&rrset));
        let none = Rrset {
            record_type: 0,
            covers: 255,
            is_negative: true,
            is_nxdomain: true,
            ..address(OWNER, vec![])
        };
        assert_eq!(Rrset::parse(&notice(&none)).as_ref(), Some(&none));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let whole = notice(&address(OWNER, vec![&[192, 0, 2, 1]]));
        for length in 0..whole.len() {
            assert_eq!(Rrset::parse(&whole[..length]), None, "{length}");
        }
        let [trust, negative, owner] = [
            Rrset {
                trust: 10,
                ..address(OWNER, vec![])
            },
            Rrset {
                is_negative: true,
                ..address(OWNER, vec![])
            },
            address(b"\x01a", vec![]),
        ];
        for rrset in [trust, negative, owner] {
            assert_eq!(Rrset::parse(&notice(&rrset)), None, "{rrset:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_rrset_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _rrset = Rrset::parse(&bytes);
        }

        #[test]
        fn spoilt_bytes_give_an_rrset_or_none(at in 0_usize..70, value in any::<u8>()) {
            let mut bytes = notice(&address(OWNER, vec![&[192, 0, 2, 1]]));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _rrset = Rrset::parse(&bytes);
        }
    }
}
