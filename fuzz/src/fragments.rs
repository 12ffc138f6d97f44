//! Fragments as the programs look after them (`netpath-ebpf/src/bpf/fragments.rs`), on the host: which datagrams have
//! begun, and which fragments are held until theirs does. Who is held counts here, not what it says.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use netpath_common::{Datagram, FragmentKey, Reason, under_way};
use netpath_ebpf::decision::{Decision, Out};
use netpath_ebpf::fragment::{
    BUCKETS, HELD_PER_BUCKET, Place, Span, begun, cut, is_holdable, is_orphan, is_over, is_past, joins, let_out, note,
};
use netpath_ebpf::packet::Packet;

use crate::hooks::L3_OFF;
use crate::place::Ground;

/// A fragment that is held.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// 0: nothing is held here.
    datagram: u64,
    seen_s: u32,
    is_copy: bool,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    last_s: u32,
    hand: u32,
    slots: HashMap<u32, Held>,
}

/// What is held, of both families.
#[derive(Debug)]
pub(crate) struct Store(RefCell<Vec<Bucket>>);

impl Store {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self(RefCell::new(vec![Bucket::default(); BUCKETS as usize])))
    }
}

/// What is known of one family's datagrams.
pub(crate) struct Fragments<F: Ground> {
    datagrams: RefCell<HashMap<FragmentKey<F::Addr>, Datagram>>,
    store: Rc<Store>,
}

impl<F: Ground> Fragments<F> {
    pub(crate) fn new(store: Rc<Store>) -> Self {
        Self { datagrams: RefCell::default(), store }
    }

    pub(crate) fn datagram_count(&self) -> usize {
        self.datagrams.borrow().len()
    }

    /// Gives a later fragment what its first one says, if that one was seen.
    pub(crate) fn join(&self, packet: &mut Packet<F>, leaves: bool, now_s: u32) {
        let datagrams = self.datagrams.borrow();
        let Some(datagram) = datagrams.get(&packet.fragment_key()) else { return };
        if joins::<F::Addr>(datagram, leaves, now_s) {
            packet.set_ports(datagram.src_port, datagram.dst_port);
            packet.follow(datagram.under_way);
        }
    }

    /// Looks after a packet on which has been decided. An error where it does not go on, or not before those that have
    /// come before it: then it and they come once more, which nobody waits for here.
    pub(crate) fn admit(
        &self,
        packet: &Packet<F>,
        decision: &Decision<F>,
        frame_len: usize,
        hash_key: u64,
        now_s: u32,
    ) -> Result<(), Reason> {
        if packet.l3.fragment == 0 {
            return Ok(());
        }
        let span = Span::of(&packet.l3, L3_OFF)?;
        let is_kernels = decision.out == Out::Kernel && decision.tuple == packet.tuple;
        if is_orphan(packet) {
            if is_kernels && !F::is_inside(&packet.tuple.dst_addr) {
                self.hold(packet, frame_len, hash_key, now_s, true);
            }
            return Ok(());
        }
        let is_first = packet.l3.is_first_fragment();
        if is_first && self.release(&Place::of(hash_key, packet), is_kernels, now_s) {
            return Err(Reason::Fragment);
        }
        if self.register(packet, span, is_first, is_kernels, now_s) { Ok(()) } else { Err(Reason::Fragment) }
    }

    /// Holds a packet that was refused, if it was for what its datagram's first fragment would have said.
    pub(crate) fn hold_back(&self, packet: &Packet<F>, reason: Reason, frame_len: usize, hash_key: u64, now_s: u32) {
        let for_its_ports = matches!(reason, Reason::Fragment | Reason::Icc | Reason::Isolated | Reason::DirectAccess);
        if for_its_ports && is_orphan(packet) {
            self.hold(packet, frame_len, hash_key, now_s, false);
        }
    }

    /// Notes whether a first fragment leaves, and by which ports: one of [`under_way`].
    pub(crate) fn remember(&self, packet: &Packet<F>, under_way: u8, now_s: u32) {
        let mut datagrams = self.datagrams.borrow_mut();
        let key = packet.fragment_key();
        let (src_port, dst_port) = (packet.tuple.src_port, packet.tuple.dst_port);
        if let Some(known) = datagrams.get_mut(&key) {
            let_out(known, src_port, dst_port, under_way, now_s);
        } else if under_way == under_way::NO {
            datagrams.insert(key, cut(src_port, dst_port, under_way, now_s));
        }
    }

    fn register(&self, packet: &Packet<F>, span: Span, is_first: bool, is_kernels: bool, now_s: u32) -> bool {
        let mut datagrams = self.datagrams.borrow_mut();
        let key = packet.fragment_key();
        if let Some(datagram) = datagrams.get_mut(&key)
            && !(is_first && is_past(datagram, now_s))
        {
            return note(datagram, span);
        }
        if is_first {
            datagrams.insert(key, begun(packet.tuple.src_port, packet.tuple.dst_port, span, is_kernels, now_s));
        }
        true
    }

    /// Whether fragments of the datagram were held; they are no more.
    fn release(&self, place: &Place, is_kernels: bool, now_s: u32) -> bool {
        let mut store = self.store.0.borrow_mut();
        let bucket = &mut store[place.bucket as usize];
        let follows = |held: &Held| {
            held.datagram == place.datagram && !is_over(held.seen_s, now_s) && !(is_kernels && held.is_copy)
        };
        if is_over(bucket.last_s, now_s) || !bucket.slots.values().any(follows) {
            return false;
        }
        bucket.slots.retain(|_, held| held.datagram != place.datagram);
        true
    }

    fn hold(&self, packet: &Packet<F>, frame_len: usize, hash_key: u64, now_s: u32, is_copy: bool) {
        if !is_holdable(frame_len as u32) || Span::of(&packet.l3, L3_OFF).is_err() {
            return;
        }
        let place = Place::of(hash_key, packet);
        let mut store = self.store.0.borrow_mut();
        let bucket = &mut store[place.bucket as usize];
        let slot = bucket.hand & (HELD_PER_BUCKET - 1);
        bucket.slots.insert(slot, Held { datagram: place.datagram, seen_s: now_s, is_copy });
        bucket.hand = bucket.hand.wrapping_add(1);
        bucket.last_s = now_s;
    }
}
