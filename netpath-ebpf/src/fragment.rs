//! What is known of a datagram in fragments: whose it is, and what of it has passed.
//!
//! Nothing is put together here: fragments pass one by one, once their first one has said the ports. What overlaps does
//! not pass, since two receivers would make two datagrams of it (RFC 5722, RFC 3128).

use netpath_common::{Datagram, HELD_LEN, RUNS, Reason, Run, datagram_state, under_way};

use crate::{
    family::Family,
    fault::{self, Fault},
    hash::Hash,
    packet::{Kind, L3, Packet},
};

/// How long fragments wait for each other, in seconds, as in Linux (`net.ipv4.ipfrag_time`). RFC 791, 3.2 asks for 15
/// at least.
pub const WAIT_S: u32 = 30;
/// How many frames are held for datagrams of the same two ends: all fragments of one of 64 KB, and some.
pub const HELD_PER_BUCKET: u32 = 64;
pub const BUCKETS: u32 = 32;

const OFFSET: u16 = 0x1fff;
const MORE: u16 = 0x2000;
/// Longest datagram, in bytes.
const MAX_LEN: u32 = 0xffff;

/// What part of its datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub run: Run,
    pub is_last: bool,
}

impl Span {
    /// # Errors
    ///
    /// [`Reason::Malformed`] where the fragment is empty, does not end where another one can begin, or lies beyond the
    /// longest datagram's end.
    #[inline(always)]
    pub fn of<A>(l3: &L3<A>, l3_off: usize) -> Result<Self, Reason> {
        let len = l3.len.wrapping_sub((l3.l4_off - l3_off) as u32) & MAX_LEN;
        let start = l3.fragment & OFFSET;
        let is_last = l3.fragment & MORE == 0;
        let is_odd = !is_last && len & 7 != 0;
        if len == 0 || is_odd || u32::from(start) * 8 + len > MAX_LEN {
            return Err(Reason::Malformed);
        }
        Ok(Self { run: Run { start, end: start + ((len + 7) >> 3) as u16 }, is_last })
    }
}

/// Whether a moment is too long ago for a fragment to belong to one that comes now.
#[inline(always)]
pub const fn is_over(seen_s: u32, now_s: u32) -> bool {
    (now_s.wrapping_sub(seen_s) as i32) > WAIT_S as i32
}

/// Whether a fragment is one that its datagram's ports are not known of.
#[inline(always)]
pub fn is_orphan<F: Family>(packet: &Packet<F>) -> bool {
    packet.kind == Kind::LaterFragment && !packet.has_ports()
}

/// A datagram of which the first fragment has passed. `is_kernels`: to the kernel, as it was.
#[inline(always)]
pub fn begun(src_port: u16, dst_port: u16, span: Span, is_kernels: bool, now_s: u32) -> Datagram {
    let under_way = if is_kernels { under_way::YES } else { under_way::NO };
    let mut datagram = Datagram { seen_s: now_s, src_port, dst_port, under_way, ..Datagram::default() };
    datagram.runs[0] = span.run;
    datagram
}

/// A datagram that the kernel has cut, of which no fragment comes from a container: who comes from there with its
/// identification is another one.
#[inline(always)]
pub fn cut(src_port: u16, dst_port: u16, under_way: u8, now_s: u32) -> Datagram {
    Datagram { seen_s: now_s, src_port, dst_port, state: datagram_state::COMPLETE, under_way, ..Datagram::default() }
}

/// Notes whether a first fragment leaves by an external interface. `datagram` is the one that had its identification: the
/// same, if it has the same ports and there is more to come. If not, the one that leaves takes its place.
#[inline(always)]
pub fn let_out(datagram: &mut Datagram, src_port: u16, dst_port: u16, under_way: u8, now_s: u32) {
    let is_same = (datagram.src_port, datagram.dst_port) == (src_port, dst_port);
    if is_same && datagram.state != datagram_state::COMPLETE && !is_over(datagram.seen_s, now_s) {
        datagram.under_way = under_way;
    } else {
        *datagram = cut(src_port, dst_port, under_way, now_s);
    }
}

/// Whether a first fragment that comes by is not a repetition of `datagram`'s, but begins another one.
#[inline(always)]
pub fn is_past(datagram: &Datagram, now_s: u32) -> bool {
    let is_done = datagram.state == datagram_state::COMPLETE || datagram.under_way == under_way::DROPPED;
    is_done || is_over(datagram.seen_s, now_s)
}

/// Whether a later fragment that comes by belongs to `datagram`. `leaves`: it is on its way out of this host, where it
/// may be one of a datagram that has passed already, but not of one whose first fragment has not left.
#[inline(always)]
pub fn joins<A>(datagram: &Datagram, leaves: bool, now_s: u32) -> bool {
    let is_current = if leaves {
        datagram.under_way == under_way::NO || fault::is_active::<A>(Fault::DroppedFirstFollowed)
    } else {
        datagram.state != datagram_state::COMPLETE
    };
    is_current && !is_over(datagram.seen_s, now_s)
}

/// Notes that a fragment is about to pass. False: it must not, since it or a part of it has passed already, or too many
/// others between them have not.
#[inline(always)]
pub fn note(datagram: &mut Datagram, span: Span) -> bool {
    if datagram.state != datagram_state::OPEN {
        return false;
    }
    let Run { start, end } = span.run;
    // Places among the runs. Not of type `Option`: the verifier lets nobody keep what is undefined in one that is empty.
    let (mut before, mut after, mut free) = (RUNS, RUNS, RUNS);
    let mut i = 0;
    while i < RUNS {
        let run = datagram.runs[i];
        if run.start == run.end {
            free = i;
        } else if start < run.end && run.start < end {
            // A repetition is no harm.
            if start < run.start || run.end < end {
                datagram.state = datagram_state::BROKEN;
            }
            return false;
        } else if run.end == start {
            before = i;
        } else if run.start == end {
            after = i;
        }
        i += 1;
    }
    if span.is_last {
        datagram.end = end;
    }
    let mut run = span.run;
    if after < RUNS {
        run.end = datagram.runs[after].end;
        datagram.runs[after] = Run::default();
        free = after;
    }
    if before < RUNS {
        run.start = datagram.runs[before].start;
        free = before;
    }
    if free >= RUNS {
        return false;
    }
    datagram.runs[free] = run;
    if run.start == 0 && run.end == datagram.end {
        datagram.state = datagram_state::COMPLETE;
    }
    true
}

/// Where a datagram's fragments are held, and the name they have there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into `HELD_BUCKETS`.
    pub bucket: u32,
    /// Never 0.
    pub datagram: u64,
}

impl Place {
    #[inline(always)]
    pub fn of<F: Family>(hash_key: u64, packet: &Packet<F>) -> Self {
        let L3 { src_addr, dst_addr, fragment_id, fragment_proto, .. } = &packet.l3;
        let ends = Hash::new(hash_key).addr(src_addr).addr(dst_addr);
        let datagram = ends.word(*fragment_id).word(u32::from(*fragment_proto)).finish() | 1;
        Self { bucket: (ends.finish() >> 32) as u32 & (BUCKETS - 1), datagram }
    }

    /// Index into `HELD` of the bucket's place number `i`.
    #[inline(always)]
    pub const fn slot(&self, i: u32) -> u32 {
        self.bucket * HELD_PER_BUCKET + (i & (HELD_PER_BUCKET - 1))
    }

    /// The lock of the bucket.
    #[inline(always)]
    pub fn lock(&self) -> u64 {
        Hash::new(2).word(self.bucket).finish()
    }
}

/// Whether a frame of so many bytes can be held.
#[inline(always)]
pub const fn is_holdable(frame_len: u32) -> bool {
    frame_len as usize <= HELD_LEN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: u16, end: u16, is_last: bool) -> Span {
        Span { run: Run { start, end }, is_last }
    }

    fn l3(fragment: u16, len: u32) -> L3<netpath_common::Addr4> {
        let addr = netpath_common::Addr4([0; 4]);
        L3 {
            src_addr: addr,
            dst_addr: addr,
            proto: 17,
            ttl: 64,
            check: 0,
            l4_off: 34,
            len,
            fragment_id: 1,
            fragment_proto: 17,
            fragment,
            options: 0,
        }
    }

    #[test]
    fn what_is_no_part_of_a_datagram_is_malformed() {
        assert_eq!(Span::of(&l3(MORE | 3, 36), 14), Ok(span(3, 5, false)));
        assert_eq!(Span::of(&l3(3, 31), 14), Ok(span(3, 5, true)));
        assert_eq!(Span::of(&l3(8189, 20 + 23), 14), Ok(span(8189, 8192, true)));
        for (fragment, len) in [(MORE, 20), (5, 20), (MORE, 31), (8189, 20 + 24), (8191, 1500)] {
            assert_eq!(Span::of(&l3(fragment, len), 14), Err(Reason::Malformed), "{fragment:#x}, {len} bytes");
        }
    }

    /// Fragments of a datagram, cut at `cuts`.
    fn parts(cuts: &[u16]) -> Vec<Span> {
        cuts.windows(2).map(|pair| span(pair[0], pair[1], pair[1] == cuts[cuts.len() - 1])).collect()
    }

    proptest! {
        #[test]
        fn a_datagram_is_complete_when_all_of_it_has_passed_in_any_order(
            lens in proptest::collection::vec(1u16..200, 1..12),
            order: Vec<prop::sample::Index>,
        ) {
            let mut cuts = vec![0, 5];
            lens.iter().for_each(|len| cuts.push(cuts[cuts.len() - 1] + len));
            let mut rest = parts(&cuts);
            let mut datagram = begun(1, 2, rest.remove(0), false, 0);
            for index in order {
                if rest.is_empty() {
                    break;
                }
                let part = rest.remove(index.index(rest.len()));
                let before = datagram;
                if !note(&mut datagram, part) {
                    // More than six parts apart.
                    prop_assert!(before.runs.iter().all(|run| run.start != run.end));
                    return Ok(());
                }
                prop_assert!(!note(&mut datagram.clone(), part), "twice");
            }
            let passed = rest.into_iter().all(|part| note(&mut datagram, part));
            prop_assert!(passed || datagram.runs.iter().all(|run| run.start != run.end));
            prop_assert_eq!(passed, datagram.state == datagram_state::COMPLETE);
        }

        #[test]
        fn nothing_passes_twice(spans in proptest::collection::vec((1u16..30, 1u16..10, any::<bool>()), 0..20)) {
            let mut datagram = begun(1, 2, span(0, 2, false), false, 0);
            let mut passed = [0u8; 64];
            passed[..2].fill(1);
            for (start, len, is_last) in spans {
                if note(&mut datagram, span(start, start + len, is_last)) {
                    passed[usize::from(start)..usize::from(start + len)].iter_mut().for_each(|times| *times += 1);
                }
            }
            prop_assert!(passed.iter().all(|times| *times <= 1), "{:?}", passed);
        }
    }

    #[test]
    fn an_overlap_ends_the_datagram_and_a_repetition_does_not() {
        let mut datagram = begun(1, 2, span(0, 4, false), false, 0);
        assert!(note(&mut datagram, span(8, 10, true)));
        assert!(!note(&mut datagram, span(8, 10, true)));
        assert!(!note(&mut datagram, span(0, 4, false)));
        assert_eq!(datagram.state, datagram_state::OPEN);
        assert!(!note(&mut datagram, span(3, 8, false)));
        assert_eq!(datagram.state, datagram_state::BROKEN);
        assert!(!note(&mut datagram, span(4, 8, false)));
    }

    #[test]
    fn who_leaves_joins_a_datagram_whose_first_fragment_has_left() {
        const NOW_S: u32 = 100;
        let leaves = |datagram: &Datagram| joins::<[u8; 4]>(datagram, true, NOW_S);
        let comes = |datagram: &Datagram| joins::<[u8; 4]>(datagram, false, NOW_S);
        let by_shortcut = begun(1, 2, span(0, 4, false), false, NOW_S);
        assert!(leaves(&by_shortcut) && comes(&by_shortcut));
        let mut datagram = begun(1, 2, span(0, 4, false), true, NOW_S);
        assert!(!leaves(&datagram) && comes(&datagram));
        assert!(note(&mut datagram, span(4, 6, true)));
        assert!(!leaves(&datagram) && !comes(&datagram), "all of it is on the kernel's road");
        let_out(&mut datagram, 1, 2, under_way::NO, NOW_S);
        assert!(leaves(&datagram) && !comes(&datagram));
    }

    #[test]
    fn a_first_fragment_that_leaves_is_its_datagrams_or_begins_another_one() {
        const NOW_S: u32 = 100;
        let open = begun(1, 2, span(0, 4, false), true, NOW_S);
        let let_out = |datagram: Datagram, src_port, now_s| {
            let mut datagram = datagram;
            let_out(&mut datagram, src_port, 2, under_way::NO, now_s);
            datagram
        };
        let left = Datagram { under_way: under_way::NO, ..open };
        assert_eq!(let_out(open, 1, NOW_S + WAIT_S), left);
        assert_eq!(let_out(left, 1, NOW_S), left);
        let later_s = NOW_S + WAIT_S + 1;
        assert_eq!(let_out(open, 1, later_s), cut(1, 2, under_way::NO, later_s));
        let complete = Datagram { state: datagram_state::COMPLETE, ..left };
        for datagram in [open, left, complete, cut(1, 2, under_way::NO, NOW_S)] {
            assert_eq!(let_out(datagram, 3, NOW_S + 7), cut(3, 2, under_way::NO, NOW_S + 7));
        }
        assert_eq!(let_out(complete, 1, NOW_S + 7), cut(1, 2, under_way::NO, NOW_S + 7));
    }

    #[test]
    fn a_first_fragment_repeats_one_that_was_not_dropped_of_a_datagram_that_is_not_complete() {
        const NOW_S: u32 = 100;
        let open = begun(1, 2, span(0, 4, false), true, NOW_S);
        for state in [datagram_state::OPEN, datagram_state::BROKEN] {
            assert!(!is_past(&Datagram { state, ..open }, NOW_S + WAIT_S));
            assert!(is_past(&Datagram { state, ..open }, NOW_S + WAIT_S + 1));
            assert!(is_past(&Datagram { state, under_way: under_way::DROPPED, ..open }, NOW_S));
        }
        assert!(is_past(&Datagram { state: datagram_state::COMPLETE, ..open }, NOW_S));
        assert!(is_past(&cut(1, 2, under_way::NO, NOW_S), NOW_S));
    }

    #[test]
    fn fragments_wait_for_half_a_minute() {
        assert!(!is_over(100, 130) && is_over(100, 131));
        // A clock that is a moment behind.
        assert!(!is_over(100, 99));
    }
}
