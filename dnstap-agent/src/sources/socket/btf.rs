//! Reader for BTF, the kernel's description of its own types, as far as byte offsets of structure
//! members need it.
//!
//! Format: Documentation/bpf/btf.rst of the kernel. Malformed input is an error, never a panic.

use std::collections::{HashMap, HashSet};

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

/// Levels of nested types that a look-up follows. BTF of a real kernel has a few; a cycle ends
/// here.
const MAX_DEPTH: u32 = 32;

/// `BTF_KIND_*` (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Errors of parsing BTF or of a look-up.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The data is no BTF in this machine's byte order.
    #[error("not BTF: magic {0:#06x}")]
    Magic(u16),
    /// The data is cut off, or an offset points outside.
    #[error("BTF is cut off or inconsistent at byte {0}")]
    Truncated(usize),
    /// The kind is not known, so its size is not known and it cannot be skipped.
    #[error("BTF has a type of unknown kind {0}")]
    Kind(u32),
    /// The structure does not exist.
    #[error("this kernel has no struct {0}")]
    NoStruct(String),
    /// The member does not exist.
    #[error("this kernel's struct {structure} has no member {member}")]
    NoMember {
        /// Name of the outermost structure.
        structure: String,
        /// Path of the missing member.
        member: String,
    },
    /// The member does not start on a byte.
    #[error("member {member} of struct {structure} is a bit-field")]
    BitField {
        /// Name of the outermost structure.
        structure: String,
        /// Path of the member.
        member: String,
    },
}

/// The types of a kernel.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`, by id; id 0 is `void`.
    offsets: Vec<u32>,
    /// Structures by name.
    structures: HashMap<&'a [u8], u32>,
    /// Functions by name.
    functions: HashMap<&'a [u8], u32>,
}

/// The first 12 bytes of every type.
struct Type {
    name: u32,
    info: u32,
    /// Size, or the id of another type.
    size_or_target: u32,
    /// Position in `types` of the kind's own data.
    data: usize,
}

impl Type {
    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn has_bit_fields(&self) -> bool {
        self.info >> 31 == 1
    }
}

impl<'a> Btf<'a> {
    /// Parses the tables of `data`, as in `/sys/kernel/btf/vmlinux`.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let magic = u16::from_ne_bytes(array(data, 0)?);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        let header_len = word(data, 4)? as usize;
        let section = |offset: usize, length: usize| {
            let start = header_len
                .max(HEADER)
                .checked_add(offset)
                .ok_or(BtfError::Truncated(offset))?;
            let end = start
                .checked_add(length)
                .ok_or(BtfError::Truncated(start))?;
            data.get(start..end).ok_or(BtfError::Truncated(start))
        };
        let types = section(word(data, 8)? as usize, word(data, 12)? as usize)?;
        let strings = section(word(data, 16)? as usize, word(data, 20)? as usize)?;
        let mut btf = Self {
            types,
            strings,
            offsets: vec![0],
            structures: HashMap::new(),
            functions: HashMap::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    /// Returns the byte offset of a member of `struct structure`, through nested and anonymous
    /// structures and unions.
    pub fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let bits = self.bits(structure, path)?;
        if bits.is_multiple_of(8) {
            Ok(bits / 8)
        } else {
            Err(BtfError::BitField {
                structure: structure.to_owned(),
                member: path.join("."),
            })
        }
    }

    /// Like [`Self::offset`], in bits.
    pub fn bits(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut id = *self
            .structures
            .get(structure.as_bytes())
            .ok_or_else(|| BtfError::NoStruct(structure.to_owned()))?;
        let mut bits = 0_u32;
        for (depth, name) in path.iter().enumerate() {
            let (member_bits, member_type) = self
                .member(id, name.as_bytes(), 0, &mut HashSet::new())?
                .ok_or_else(|| BtfError::NoMember {
                    structure: structure.to_owned(),
                    member: path[..=depth].join("."),
                })?;
            bits = bits.wrapping_add(member_bits);
            id = member_type;
        }
        Ok(bits)
    }

    /// Returns the number of parameters of a kernel function; `None` if the kernel has no such
    /// function.
    pub fn parameters(&self, function: &str) -> Result<Option<usize>, BtfError> {
        let Some(&id) = self.functions.get(function.as_bytes()) else {
            return Ok(None);
        };
        let prototype = self.by_id(self.by_id(id)?.size_or_target)?;
        Ok(Some(prototype.count()))
    }

    /// Returns the value of an enumerator in any `enum`.
    pub fn enumerator(&self, name: &str) -> Result<Option<u32>, BtfError> {
        for &offset in &self.offsets[1..] {
            let found = self.at(offset as usize)?;
            if found.kind() == kind::ENUM {
                for index in 0..found.count() {
                    let entry = found.data + 8 * index;
                    if self.string(word(self.types, entry)?)? == name.as_bytes() {
                        return Ok(Some(word(self.types, entry + 4)?));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns BTF in which these functions and typedefs have the same ids as here. Every other
    /// type becomes a forward declaration without a name. This is enough to find an id by its name,
    /// in a fraction of the time and memory. The result ends with the last of the wanted types.
    pub fn names_alone(&self, wanted: &[&str]) -> Result<Vec<u8>, BtfError> {
        let mut strings = vec![0];
        let mut types = Vec::new();
        let mut end = 0;
        for &offset in &self.offsets[1..] {
            let found = self.at(offset as usize)?;
            let mut kept = [0, kind::FWD << 24, 0];
            if matches!(found.kind(), kind::FUNC | kind::TYPEDEF) {
                let name = self.string(found.name)?;
                if wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                    kept = [length_of(&strings)?, found.info, 0];
                    strings.extend_from_slice(name);
                    strings.push(0);
                    end = types.len() + size_of_val(&kept);
                }
            }
            types.extend(kept.into_iter().flat_map(u32::to_ne_bytes));
        }
        types.truncate(end);
        let (types_len, strings_len) = (length_of(&types)?, length_of(&strings)?);
        let [magic_low, magic_high] = MAGIC.to_ne_bytes();
        let version_and_flags = [1, 0];
        let mut btf = vec![magic_low, magic_high];
        btf.extend(version_and_flags);
        let header_len = length_of(&[0; HEADER])?;
        let lengths = [header_len, 0, types_len, types_len, strings_len];
        btf.extend(lengths.into_iter().flat_map(u32::to_ne_bytes));
        btf.extend(types);
        btf.extend(strings);
        Ok(btf)
    }

    /// Returns bit offset and type of the member `name` of a structure or union. Searches anonymous
    /// ones inside, each only once: types that refer to each other many times would otherwise take
    /// exponential time.
    fn member(
        &self,
        id: u32,
        name: &[u8],
        depth: u32,
        seen: &mut HashSet<u32>,
    ) -> Result<Option<(u32, u32)>, BtfError> {
        if depth > MAX_DEPTH || !seen.insert(id) {
            return Ok(None);
        }
        let aggregate = self.resolve(id)?;
        if !matches!(aggregate.kind(), kind::STRUCT | kind::UNION) {
            return Ok(None);
        }
        for index in 0..aggregate.count() {
            let entry = aggregate.data + 12 * index;
            let member_name = self.string(word(self.types, entry)?)?;
            let member_type = word(self.types, entry + 4)?;
            let encoded = word(self.types, entry + 8)?;
            let bits = if aggregate.has_bit_fields() {
                encoded & 0x00ff_ffff
            } else {
                encoded
            };
            if member_name == name {
                return Ok(Some((bits, member_type)));
            }
            if member_name.is_empty()
                && let Some((inner, inner_type)) =
                    self.member(member_type, name, depth + 1, seen)?
            {
                return Ok(Some((bits.wrapping_add(inner), inner_type)));
            }
        }
        Ok(None)
    }

    /// Returns the type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<Type, BtfError> {
        for _ in 0..MAX_DEPTH {
            let found = self.by_id(id)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.size_or_target;
                }
                _ => return Ok(found),
            }
        }
        Err(BtfError::Truncated(0))
    }

    fn by_id(&self, id: u32) -> Result<Type, BtfError> {
        match self.offsets.get(id as usize) {
            Some(&offset) if id != 0 => self.at(offset as usize),
            _ => Err(BtfError::Truncated(id as usize)),
        }
    }

    fn at(&self, offset: usize) -> Result<Type, BtfError> {
        Ok(Type {
            name: word(self.types, offset)?,
            info: word(self.types, offset + 4)?,
            size_or_target: word(self.types, offset + 8)?,
            data: offset + 12,
        })
    }

    /// Returns the null-terminated string at `offset`.
    fn string(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        let tail = self
            .strings
            .get(offset as usize..)
            .ok_or(BtfError::Truncated(offset as usize))?;
        let end = tail
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(BtfError::Truncated(offset as usize))?;
        Ok(&tail[..end])
    }

    /// Indexes all types.
    fn index(&mut self) -> Result<(), BtfError> {
        let mut offset = 0;
        while offset < self.types.len() {
            let found = self.at(offset)?;
            let id =
                u32::try_from(self.offsets.len()).map_err(|_large| BtfError::Truncated(offset))?;
            self.offsets
                .push(u32::try_from(offset).map_err(|_large| BtfError::Truncated(offset))?);
            match found.kind() {
                kind::STRUCT if found.name != 0 => {
                    self.structures
                        .entry(self.string(found.name)?)
                        .or_insert(id);
                }
                kind::FUNC => {
                    self.functions.entry(self.string(found.name)?).or_insert(id);
                }
                _ => {}
            }
            offset = found.data + data_len(&found)?;
        }
        Ok(())
    }
}

/// Returns the number of bytes behind the first 12 of a type.
fn data_len(found: &Type) -> Result<usize, BtfError> {
    let count = found.count();
    Ok(match found.kind() {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        // pointer, forward declaration, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        unknown => return Err(BtfError::Kind(unknown)),
    })
}

fn length_of(bytes: &[u8]) -> Result<u32, BtfError> {
    u32::try_from(bytes.len()).map_err(|_large| BtfError::Truncated(bytes.len()))
}

fn word(data: &[u8], offset: usize) -> Result<u32, BtfError> {
    array(data, offset).map(u32::from_ne_bytes)
}

fn array<const N: usize>(data: &[u8], offset: usize) -> Result<[u8; N], BtfError> {
    data.get(offset..)
        .and_then(|tail| tail.first_chunk())
        .copied()
        .ok_or(BtfError::Truncated(offset))
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "a small sample")]
    #[expect(
        clippy::decimal_bitwise_operands,
        reason = "bit offsets read better so"
    )]
    /// `struct inner { int a; }; struct outer { char first[8]; union { struct inner in; int b; }; int c: 3; int d: 5; }`
    fn sample() -> Vec<u8> {
        let mut strings = vec![0_u8];
        let mut name = |text: &str| {
            let offset = strings.len() as u32;
            strings.extend(text.bytes());
            strings.push(0);
            offset
        };
        let mut types: Vec<u32> = Vec::new();
        // 1: int
        types.extend([name("int"), kind::INT << 24, 4, 32]);
        // 2: struct inner { int a at bit 32 }
        types.extend([name("inner"), (kind::STRUCT << 24) | 1, 8, name("a"), 1, 32]);
        // 3: typedef inner_t -> 2
        types.extend([name("inner_t"), kind::TYPEDEF << 24, 2]);
        // 4: anonymous union { inner_t in; int b; }
        types.extend([
            0,
            (kind::UNION << 24) | 2,
            8,
            name("in"),
            3,
            0,
            name("b"),
            1,
            0,
        ]);
        // 5: struct outer with bit-fields: member offset in the low 24 bits, width in the high 8
        types.extend([name("outer"), (1 << 31) | (kind::STRUCT << 24) | 3, 24]);
        types.extend([
            0,
            4,
            64,
            name("c"),
            1,
            (3 << 24) | 128,
            name("d"),
            1,
            (5 << 24) | 131,
        ]);
        // 6: enum { FIRST = 3 }
        types.extend([0, (kind::ENUM << 24) | 1, 4, name("FIRST"), 3]);
        // 7: function prototype with two parameters, 8: function
        types.extend([0, (kind::FUNC_PROTO << 24) | 2, 1, 0, 1, 0, 1]);
        types.extend([name("inet_sendmsg"), kind::FUNC << 24, 7]);
        btf(&types, &strings)
    }

    /// Puts a header in front of types and strings.
    #[expect(clippy::cast_possible_truncation, reason = "a small sample")]
    fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            data.extend(word.to_ne_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_typedefs() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("inner", &["a"]), Ok(4));
        assert_eq!(btf.offset("outer", &["b"]), Ok(8));
        assert_eq!(btf.offset("outer", &["in", "a"]), Ok(12));
        assert_eq!(btf.offset("outer", &["c"]), Ok(16));
    }

    #[test]
    fn names_keep_their_ids_and_all_else_is_cut() {
        let data = sample();
        let whole = Btf::parse(&data).unwrap();
        let names = whole.names_alone(&["inner_t", "inet_sendmsg"]).unwrap();
        let loadable = aya::Btf::parse(&names, aya::Endianness::default()).unwrap();
        let id = |name, kind| loadable.id_by_type_name_kind(name, kind).ok();
        assert_eq!(id("inner_t", BtfKind::Typedef), Some(3));
        assert_eq!(id("inet_sendmsg", BtfKind::Func), Some(8));
        assert_eq!(id("inner", BtfKind::Struct), None);
        assert_eq!(
            names.len(),
            HEADER + 8 * 12 + 1 + "inner_t".len() + 1 + "inet_sendmsg".len() + 1
        );
        let none = whole.names_alone(&["nothing"]).unwrap();
        assert_eq!(none.len(), HEADER + 1);
    }

    /// Each type contains the next one twice, so there are 2^31 paths.
    #[test]
    fn types_that_hold_each_other_many_times_are_searched_once() {
        let mut types: Vec<u32> = Vec::new();
        for next in 2..=32 {
            let name = u32::from(next == 2);
            types.extend([name, (kind::STRUCT << 24) | 2, 8, 0, next, 0, 0, next, 0]);
        }
        types.extend([0, kind::STRUCT << 24, 0]);
        let data = btf(&types, b"\0first\0");
        let parsed = Btf::parse(&data).unwrap();
        let missing = parsed.offset("first", &["none"]).unwrap_err();
        assert!(matches!(missing, BtfError::NoMember { .. }), "{missing}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(
            btf.offset("nothing", &["a"]),
            Err(BtfError::NoStruct("nothing".into()))
        );
        let missing = btf.offset("outer", &["in", "z"]).unwrap_err();
        assert_eq!(
            missing,
            BtfError::NoMember {
                structure: "outer".into(),
                member: "in.z".into()
            }
        );
        assert_eq!(
            btf.offset("outer", &["d"]),
            Err(BtfError::BitField {
                structure: "outer".into(),
                member: "d".into()
            })
        );
    }

    #[test]
    fn functions_and_enumerators_are_found() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.parameters("inet_sendmsg"), Ok(Some(2)));
        assert_eq!(btf.parameters("inet6_sendmsg"), Ok(None));
        assert_eq!(btf.enumerator("FIRST"), Ok(Some(3)));
        assert_eq!(btf.enumerator("SECOND"), Ok(None));
    }

    #[test]
    fn every_truncation_is_an_error_or_harmless() {
        let data = sample();
        for end in 0..data.len() {
            assert!(Btf::parse(&data[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn damaged_btf_never_panics(at in 0_usize..400, value: u8) {
            let mut data = sample();
            let at = at % data.len();
            data[at] = value;
            if let Ok(btf) = Btf::parse(&data) {
                drop((btf.offset("outer", &["in", "a"]), btf.enumerator("FIRST"), btf.parameters("inet_sendmsg")));
            }
        }
    }
}
