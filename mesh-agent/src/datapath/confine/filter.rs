// SPDX-License-Identifier: Apache-2.0

//! Writes a filter of system calls: rules in, a program for the kernel out.
//!
//! Knows nothing of which calls are refused. Only the lower half of an argument is looked at, which is all that the
//! kernel takes of those that are flags or commands. Invariants: what no rule names is allowed; a call by another
//! architecture's numbers is refused, for there the rules would mean others.
//! Reference: `struct seccomp_data` in `include/uapi/linux/seccomp.h`, `Documentation/userspace-api/seccomp_filter.rst`.

/// Loads a word of what the kernel tells of a call.
const LOAD: u16 = 0x20;
/// Jumps if it is equal.
const JUMP_EQUAL: u16 = 0x15;
/// Jumps if it is as great, or greater.
#[cfg(target_arch = "x86_64")]
const JUMP_AT_LEAST: u16 = 0x35;
/// Jumps if any of the bits is set.
const JUMP_SET: u16 = 0x45;
/// The verdict.
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
/// The call fails with the number in the lower half.
const FAIL: u32 = 0x0005_0000;

/// Where the kernel puts what: the call's number, whose numbers those are, and arguments of eight bytes.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// From here on numbers are those of the 32-bit half of the same architecture.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: u32 = 0x4000_0000;

/// What is done about one call.
#[derive(Debug)]
pub(super) struct Rule {
    number: u32,
    when: When,
}

#[derive(Debug)]
enum When {
    /// Always fails, with this error.
    Fails(libc::c_int),
    /// Fails but for these values of an argument.
    Only(u32, Vec<u32>),
    /// Fails if any of these bits of an argument is set.
    Without(u32, u32),
}

impl Rule {
    fn new(call: libc::c_long, when: When) -> Self {
        let number = call.try_into().expect("numbers of calls are small");
        Self { number, when }
    }

    /// The call is not permitted.
    pub(super) fn refuse(call: libc::c_long) -> Self {
        Self::new(call, When::Fails(libc::EPERM))
    }

    /// There is no such call.
    pub(super) fn unknown(call: libc::c_long) -> Self {
        Self::new(call, When::Fails(libc::ENOSYS))
    }

    /// The call is permitted if its argument of that number is one of the values.
    pub(super) fn only(call: libc::c_long, argument: u32, values: Vec<u32>) -> Self {
        Self::new(call, When::Only(argument, values))
    }

    /// The call is permitted unless its argument of that number has any of the bits.
    pub(super) fn without(call: libc::c_long, argument: u32, bits: u32) -> Self {
        Self::new(call, When::Without(argument, bits))
    }

    /// What to do once it is known to be this call.
    fn verdict(&self, program: &mut Vec<libc::sock_filter>) {
        match &self.when {
            When::Fails(error) => program.push(fail(*error)),
            When::Only(argument, values) => {
                program.push(step(LOAD, 0, 0, ARGUMENTS_AT + 8 * argument));
                for value in values {
                    program.push(step(JUMP_EQUAL, 0, 1, *value));
                    program.push(step(RETURN, 0, 0, ALLOW));
                }
                program.push(fail(libc::EPERM));
            }
            When::Without(argument, bits) => {
                program.push(step(LOAD, 0, 0, ARGUMENTS_AT + 8 * argument));
                program.push(step(JUMP_SET, 1, 0, *bits));
                program.push(step(RETURN, 0, 0, ALLOW));
                program.push(fail(libc::EPERM));
            }
        }
    }
}

/// The program that carries out `rules`.
pub(super) fn program(rules: &[Rule]) -> Vec<libc::sock_filter> {
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE_AT),
        step(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        fail(libc::EPERM),
        step(LOAD, 0, 0, NUMBER_AT),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([step(JUMP_AT_LEAST, 0, 1, OTHER_NUMBERS), fail(libc::EPERM)]);
    for rule in rules {
        let mut verdict = Vec::new();
        rule.verdict(&mut verdict);
        let length = verdict
            .len()
            .try_into()
            .expect("a rule is a few steps long");
        program.push(step(JUMP_EQUAL, 0, length, rule.number));
        program.append(&mut verdict);
    }
    program.push(step(RETURN, 0, 0, ALLOW));
    program
}

fn fail(error: libc::c_int) -> libc::sock_filter {
    step(RETURN, 0, 0, FAIL | error.unsigned_abs())
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}
