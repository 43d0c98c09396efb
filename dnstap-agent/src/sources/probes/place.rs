//! Where in a function to attach: the first instruction that the kernel carries out by itself.
//!
//! A uprobe replaces an instruction by a breakpoint. The kernel emulates some instructions (`arch/x86/kernel/uprobes.c`,
//! `branch_setup_xol_ops` and `push_setup_xol_ops`: `push` of a register, `nop`, `jmp`, `jcc`, `call`), which costs under a microsecond. For
//! any other it has the process step over a copy, which costs about ten times as much. Functions of a build with CET begin with `endbr64`,
//! which is one of those.
//!
//! What may be skipped neither changes the arguments nor leaves the function: `endbr64`, `sub $N,%rsp` and `test`. Pure.

/// Bytes of a function that are looked at.
pub(super) const LOOKED_AT: usize = 48;

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes behind the function's beginning.
    pub(super) offset: u64,
    /// Bytes by which the stack has grown up to there.
    pub(super) grown: u32,
    /// Whether the kernel emulates the instruction there; else the process steps over it.
    pub(super) is_emulated: bool,
}

/// The place to attach to in a function that begins with these bytes. With arguments on the stack (`has_stack_arguments`) the stack is as it
/// was at the call.
pub(super) fn find(code: &[u8], has_stack_arguments: bool) -> Place {
    let (mut at, mut grown) = (0, 0);
    while let Some(rest) = code.get(at..) {
        if is_emulated(rest) {
            return Place {
                offset: at as u64,
                grown,
                is_emulated: true,
            };
        }
        let (length, grows) = match rest {
            // endbr64
            [0xf3, 0x0f, 0x1e, 0xfa, ..] => (4, 0),
            // sub $N,%rsp
            [0x48, 0x83, 0xec, bytes, ..] if !has_stack_arguments => (4, u32::from(*bytes)),
            [0x48, 0x81, 0xec, a, b, c, d, ..] if !has_stack_arguments => {
                (7, u32::from_le_bytes([*a, *b, *c, *d]))
            }
            // test of two registers, of 32 or 64 bits
            [0x85, 0xc0..=0xff, ..] => (2, 0),
            [0x40..=0x4f, 0x85, 0xc0..=0xff, ..] => (3, 0),
            _ => break,
        };
        at += length;
        grown += grows;
    }
    Place {
        offset: 0,
        grown: 0,
        is_emulated: false,
    }
}

/// Whether the kernel emulates the instruction that begins here. Those of its list that a function may begin with.
fn is_emulated(code: &[u8]) -> bool {
    match code {
        // push of a register, jcc, nop, call, jmp
        [0x50..=0x57 | 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb, ..] => true,
        // push of one of the upper eight registers, with the one prefix that the kernel takes
        [0x41, second, ..] => matches!(second, 0x50..=0x57),
        // jcc with a longer way
        [0x0f, second, ..] => matches!(second, 0x80..=0x8f),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const STEPPED: Place = Place {
        offset: 0,
        grown: 0,
        is_emulated: false,
    };

    const fn emulated(offset: u64, grown: u32) -> Place {
        Place {
            offset,
            grown,
            is_emulated: true,
        }
    }

    // The beginnings are those of Debian's builds: 12 (9.18.49), 13 (9.20.30).
    #[rstest]
    #[case::push_with_a_prefix(&[0x41, 0x57, 0x41, 0x56], false, emulated(0, 0))]
    #[case::push(&[0x55, 0x48, 0x89, 0xe5], false, emulated(0, 0))]
    #[case::behind_endbr64(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57], true, emulated(4, 0))]
    #[case::a_jump_behind_a_test(
        &[0x48, 0x81, 0xec, 0xd8, 0, 0, 0, 0x48, 0x85, 0xff, 0x74, 0x10], false, emulated(10, 0xd8)
    )]
    #[case::a_short_frame(&[0x48, 0x83, 0xec, 8, 0x48, 0x85, 0xff, 0x0f, 0x84, 0, 1, 0, 0], false, emulated(7, 8))]
    #[case::arguments_on_a_stack_that_grows(
        &[0x48, 0x83, 0xec, 8, 0x48, 0x85, 0xff, 0x74, 0], true, STEPPED
    )]
    #[case::mov(&[0x48, 0x89, 0xe5, 0x55], false, STEPPED)]
    #[case::endbr64_and_mov(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xe5, 0x55], false, STEPPED)]
    #[case::test_of_memory(&[0x48, 0x85, 0x07, 0x74, 0], false, STEPPED)]
    #[case::nothing(&[], false, STEPPED)]
    fn the_first_emulated_instruction_is_found(
        #[case] code: &[u8],
        #[case] has_stack_arguments: bool,
        #[case] expected: Place,
    ) {
        assert_eq!(find(code, has_stack_arguments), expected);
    }

    proptest! {
        #[test]
        fn a_place_is_within_the_code(code in proptest::collection::vec(any::<u8>(), 0..LOOKED_AT), stack: bool) {
            let place = find(&code, stack);
            prop_assert!(place.offset == 0 || place.offset < code.len() as u64);
            prop_assert!(!stack || place.grown == 0);
        }
    }
}
