// SPDX-License-Identifier: Apache-2.0

//! Names that nobody else gives: the ids of requests and of traces.
//!
//! Each thread draws from a generator of its own (xoshiro256++), which begins with randomness of the
//! operating system: no lock, no system call, no allocation. Unique, not secret: whoever sees many may tell
//! the next. References: RFC 9562 section 5.4; W3C Trace Context, section 3.2.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

/// The text of a UUID.
pub(crate) type Uuid = [u8; 36];

/// The text of a `traceparent`.
pub(crate) type TraceParent = [u8; 55];

thread_local! {
    static STATE: Cell<[u64; 4]> = Cell::new(seed());
}

/// The keys of a `RandomState` are the operating system's; what it makes of numbers is as random.
fn seed() -> [u64; 4] {
    let random = RandomState::new();
    std::array::from_fn(|word| random.hash_one(word))
}

/// 64 bits that nobody has drawn before.
fn draw() -> u64 {
    STATE.with(|state| {
        let [a, b, c, d] = state.get();
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (crossed, mixed) = (c ^ a, d ^ b);
        let next = [a ^ mixed, b ^ crossed, crossed ^ (b << 17)];
        state.set([next[0], next[1], next[2], mixed.rotate_left(45)]);
        drawn
    })
}

/// A new random UUID.
pub(crate) fn uuid() -> Uuid {
    let version = (draw() & !0xf000) | 0x4000;
    let variant = (draw() & (!0 >> 2)) | (1 << 63);
    let (high, low) = (hex(version), hex(variant));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    text
}

/// The begin of a new trace, of which nothing is recorded so far.
pub(crate) fn trace_parent() -> TraceParent {
    let mut text = *b"00-................................-................-00";
    text[3..19].copy_from_slice(&hex(draw()));
    // Ids of zeros alone are none.
    text[19..35].copy_from_slice(&hex(draw().max(1)));
    text[36..52].copy_from_slice(&hex(draw().max(1)));
    text
}

/// The digits of all four bits, each of which is moved to a byte of its own; no loop, no table.
fn hex(bits: u64) -> [u8; 16] {
    // A one in each byte.
    const ONES: u128 = u128::MAX / 0xff;
    let mut each = u128::from(bits);
    each = (each | (each << 32)) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    each = (each | (each << 16)) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    each = (each | (each << 8)) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    each = (each | (each << 4)) & (ONES * 0x0f);
    // Ten and more carry into the upper half if six is added.
    let letters = ((each + ONES * 6) >> 4) & ONES;
    let to_letter = u128::from(b'a' - b'9' - 1);
    (each + ONES * u128::from(b'0') + letters * to_letter).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_a_random_uuid_of_version_4() {
        for _ in 0..1_000 {
            let id = uuid();
            let text = std::str::from_utf8(&id).unwrap();
            let parts: Vec<&str> = text.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{text}");
            let digits = |part: &&str| part.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
            assert!(parts.iter().all(digits), "{text}");
            assert!(parts[2].starts_with('4'), "{text}");
            assert!(parts[3].starts_with(['8', '9', 'a', 'b']), "{text}");
        }
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, u64::MAX - 9] {
            assert_eq!(hex(bits), format!("{bits:016x}").as_bytes());
        }
        for _ in 0..1_000 {
            let bits = draw();
            assert_eq!(hex(bits), format!("{bits:016x}").as_bytes());
        }
    }

    #[test]
    fn no_two_are_the_same_whichever_thread_makes_them() {
        let make = || -> Vec<Uuid> { (0..10_000).map(|_| uuid()).collect() };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let all = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        assert_eq!(all.collect::<HashSet<_>>().len(), 40_000);
    }

    #[test]
    fn every_bit_of_an_id_is_drawn() {
        let (mut ones, mut zeros) = (0, 0);
        for _ in 0..200 {
            let drawn = draw();
            ones |= drawn;
            zeros |= !drawn;
        }
        assert_eq!((ones, zeros), (u64::MAX, u64::MAX));
    }

    #[test]
    fn a_new_trace_is_not_recorded_and_well_formed() {
        let text = String::from_utf8(trace_parent().to_vec()).unwrap();
        let parts: Vec<&str> = text.split('-').collect();
        assert_eq!((parts[0], parts[3]), ("00", "00"));
        assert_eq!((parts[1].len(), parts[2].len()), (32, 16));
        assert!(!text.contains('.'), "{text}");
        assert_ne!(trace_parent(), trace_parent());
    }
}
