//! BTF from a file (`DNSTAP_AGENT_BTF`): each look-up ends with a result or an error. BTF that was reduced to some
//! names is valid BTF, and reducing it to the same names again changes nothing.
//!
//! The input is the BTF. The names come from its end, where the strings are.

use std::str;

use dnstap_agent::sources::socket::btf::Btf;

/// Number of names that are looked up.
const NAMES: usize = 8;

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else {
        return;
    };
    let strings = bytes.rsplit(|byte| *byte == 0);
    let names: Vec<_> = strings
        .filter_map(|text| str::from_utf8(text).ok())
        .filter(|text| !text.is_empty())
        .take(NAMES)
        .collect();
    for name in &names {
        for path in [&names[..1], &names] {
            // The offset in bytes equals the offset in bits, if that is a whole number of bytes.
            if let (Ok(offset), Ok(bits)) = (btf.offset(name, path), btf.bits(name, path)) {
                assert_eq!(u64::from(offset) * 8, u64::from(bits), "{name}.{path:?}");
            }
        }
        let _answered = btf.enumerator(name);
    }
    let Ok(cut) = btf.names_alone(&names) else {
        return;
    };
    let names_of_cut = Btf::parse(&cut).and_then(|cut| cut.names_alone(&names));
    assert_eq!(names_of_cut.as_ref(), Ok(&cut), "nothing is left to cut");
}
