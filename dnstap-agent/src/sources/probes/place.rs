//! Chooses the instruction of a function at which a probe is attached: the first one that the
//! kernel emulates.
//!
//! A uprobe replaces an instruction by a breakpoint. The kernel emulates some instructions
//! (`arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` and `push_setup_xol_ops`: `push` of a
//! register, `nop`, `jmp`, `jcc`, `call`). This costs less than a microsecond. For any other
//! instruction, the process steps over a copy, which costs about ten times as much. Functions of a
//! build with CET begin with `endbr64`, which the kernel does not emulate.
//!
//! The search skips only instructions that neither change the arguments nor leave the function:
//! `endbr64`, `sub $N,%rsp`, `mov` of a register to the stack, and `test`. This module is pure.
//!
//! On arm64 the kernel emulates only branches and loads relative to the program counter
//! (`arch/arm64/kernel/probes/decode-insn.c`), with which no function begins that has something to save. So the probe is at
//! the first instruction there, and the process steps over a copy of it. The kernel accepts `bti` and `paciasp`.

/// Number of bytes of a function that are examined.
pub(super) const LOOKED_AT: usize = 48;

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Distance from the start of the function, in bytes.
    pub(super) offset: u64,
    /// Number of bytes by which the stack has grown before this instruction.
    pub(super) grown: u32,
    /// Whether the kernel emulates the instruction. If not, the process steps over it.
    pub(super) is_emulated: bool,
}

/// Start of a function, with an instruction that the kernel does not emulate.
const START: Place = Place {
    offset: 0,
    grown: 0,
    is_emulated: false,
};

/// Returns the place to attach to in a function that begins with `code`. With
/// `has_stack_arguments`, the stack pointer there is the same as at the call.
pub(super) fn find(code: &[u8], has_stack_arguments: bool) -> Place {
    if cfg!(target_arch = "x86_64") {
        find_x86_64(code, has_stack_arguments)
    } else {
        START
    }
}

/// The same for x86-64.
fn find_x86_64(code: &[u8], has_stack_arguments: bool) -> Place {
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
            // mov of a 64-bit register to N(%rsp)
            [0x48 | 0x4c, 0x89, to, 0x24, _, ..] if to & 0xc7 == 0x44 => (5, 0),
            [0x48 | 0x4c, 0x89, to, 0x24, _, _, _, _, ..] if to & 0xc7 == 0x84 => (8, 0),
            // test of two registers, of 8, 32 or 64 bits
            [0x84 | 0x85, 0xc0..=0xff, ..] => (2, 0),
            [0x40..=0x4f, 0x85, 0xc0..=0xff, ..] => (3, 0),
            _ => break,
        };
        at += length;
        grown += grows;
    }
    START
}

/// Returns whether the kernel emulates the first instruction of `code`. Only instructions that a
/// function may begin with are considered.
fn is_emulated(code: &[u8]) -> bool {
    match code {
        // push of a register, jcc, nop, call, jmp
        [0x50..=0x57 | 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb, ..] => true,
        // push of r8 to r15; the kernel accepts no prefix but 0x41
        [0x41, second, ..] => matches!(second, 0x50..=0x57),
        // jcc with a displacement of 32 bits
        [0x0f, second, ..] => matches!(second, 0x80..=0x8f),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const fn emulated(offset: u64, grown: u32) -> Place {
        Place {
            offset,
            grown,
            is_emulated: true,
        }
    }

    // The code is from Debian's builds: 12 (9.18.49), 13 (9.20.30).
    #[rstest]
    #[case::push_with_a_prefix(&[0x41, 0x57, 0x41, 0x56], false, emulated(0, 0))]
    #[case::push(&[0x55, 0x48, 0x89, 0xe5], false, emulated(0, 0))]
    #[case::behind_endbr64(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57], true, emulated(4, 0))]
    #[case::a_jump_behind_a_test(
        &[0x48, 0x81, 0xec, 0xd8, 0, 0, 0, 0x48, 0x85, 0xff, 0x74, 0x10], false, emulated(10, 0xd8)
    )]
    #[case::a_short_frame(&[0x48, 0x83, 0xec, 8, 0x48, 0x85, 0xff, 0x0f, 0x84, 0, 1, 0, 0], false, emulated(7, 8))]
    #[case::variable_arguments(
        &[0x48, 0x81, 0xec, 0xd8, 0, 0, 0, 0x4c, 0x89, 0x4c, 0x24, 0x48, 0x84, 0xc0, 0x74, 0x37], false, emulated(14, 0xd8)
    )]
    #[case::mov_to_other_memory(&[0x4c, 0x89, 0x4d, 0x48, 0x74, 0x37], false, START)]
    #[case::arguments_on_a_stack_that_grows(
        &[0x48, 0x83, 0xec, 8, 0x48, 0x85, 0xff, 0x74, 0], true, START
    )]
    #[case::mov(&[0x48, 0x89, 0xe5, 0x55], false, START)]
    #[case::endbr64_and_mov(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xe5, 0x55], false, START)]
    #[case::test_of_memory(&[0x48, 0x85, 0x07, 0x74, 0], false, START)]
    #[case::nothing(&[], false, START)]
    fn the_first_emulated_instruction_is_found(
        #[case] code: &[u8],
        #[case] has_stack_arguments: bool,
        #[case] expected: Place,
    ) {
        assert_eq!(find_x86_64(code, has_stack_arguments), expected);
    }

    proptest! {
        #[test]
        fn a_place_is_within_the_code(code in proptest::collection::vec(any::<u8>(), 0..LOOKED_AT), stack: bool) {
            let place = find_x86_64(&code, stack);
            prop_assert!(place.offset == 0 || place.offset < code.len() as u64);
            prop_assert!(!stack || place.grown == 0);
        }
    }
}
