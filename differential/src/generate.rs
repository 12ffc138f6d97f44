//! Steps by chance: mostly what two who talk would say next, and near misses of it.

use netpath_model::packet::Fragment;
use netpath_model::{Body, Checksum, End, Name, Nat, Packet, Place, Proto, Tcp};
use std::collections::VecDeque;

use crate::conversation::{Conversation, Party};
use crate::layout::{CONTAINERS, Layout, SPARE_PORTS, at};
use crate::malformed;
use crate::rng::Rng;
use crate::script;
use crate::step::{Sender, Step, Stimulus};
use crate::{uninvited, wire};

/// How many talk at once.
const CONVERSATIONS: usize = 14;

/// Makes steps, as many as are wanted.
pub struct Generator {
    rng: Rng,
    layout: Layout,
    conversations: Vec<Conversation>,
    /// What is to be sent soon: the rest of a datagram's fragments.
    queue: VecDeque<Stimulus>,
    /// What is to be done next, one after the other.
    script: VecDeque<Step>,
    sent: u16,
    /// Control-plane steps and packets of all steps: one in so many.
    rarely: usize,
}

impl Generator {
    pub fn new(seed: u64, layout: Layout) -> Self {
        Self {
            rng: Rng::new(seed),
            layout,
            conversations: Vec::new(),
            queue: VecDeque::new(),
            script: VecDeque::new(),
            sent: 0,
            rarely: 400,
        }
    }

    /// The next step in worlds of which `model` knows the state.
    pub fn step(&mut self, model: &Nat) -> Step {
        if let Some(step) = self.script.pop_front() {
            return self.numbered(step);
        }
        if self.queue.is_empty() && !self.conversations.is_empty() && self.rng.chance(2) {
            let chosen = self.rng.below(self.conversations.len());
            self.script = script::after_silence(&self.conversations[chosen], &mut self.rng);
        }
        if self.queue.is_empty() && self.rng.below(self.rarely) == 0 {
            return self.control(model);
        }
        let rest = if self.rng.chance(70) { self.queue.pop_front() } else { None };
        let stimulus = rest.unwrap_or_else(|| self.stimulus(model));
        self.numbered(Step::Send(Box::new(stimulus)))
    }

    /// Identifications tell packets apart; those of fragments are given to all of a datagram.
    fn numbered(&mut self, mut step: Step) -> Step {
        if let Step::Send(stimulus) = &mut step
            && stimulus.packet.fragment.is_none()
        {
            self.sent = self.sent.wrapping_add(1);
            stimulus.packet.id = self.sent;
        }
        step
    }

    /// What is left to be sent of what was begun.
    pub fn rest(&mut self) -> Option<Step> {
        self.queue.pop_front().map(|stimulus| Step::Send(Box::new(stimulus)))
    }

    fn control(&mut self, model: &Nat) -> Step {
        let port = self.rng.pick(&SPARE_PORTS);
        let is_published = model.ports().contains(&port);
        match self.rng.below(20) {
            0 | 1 => self.replace(),
            2 if self.rng.chance(20) => Step::RestartAgent,
            3..=6 if is_published => Step::Unpublish(port),
            3..=6 => Step::Publish(port),
            _ => Step::Advance(self.rng.pick(&[25, 70, 130, 250, 310, 2000, 7500])),
        }
    }

    /// A container goes, and whom it talked to goes on talking to it.
    fn replace(&mut self) -> Step {
        let number = self.rng.below(CONTAINERS);
        let is_its = |conversation: &Conversation| conversation.first.0 == Place::Container(number);
        let rng = &mut self.rng;
        for conversation in self.conversations.iter().filter(|c| is_its(c) && c.second.0 == Place::Outside) {
            let answer = conversation.anything(Party::Second, vec![6; 6], rng);
            self.script.push_back(Step::Send(Box::new(conversation.stimulus(Party::Second, answer))));
        }
        Step::Replace(number)
    }

    fn stimulus(&mut self, model: &Nat) -> Stimulus {
        if self.conversations.len() < 3 || (self.rng.chance(10) && self.conversations.len() < CONVERSATIONS) {
            let begun = self.conversation(model);
            self.conversations.push(begun);
        } else if self.rng.chance(2) {
            let over = self.rng.below(self.conversations.len());
            self.conversations.swap_remove(over);
        }
        let chosen =
            if self.rng.chance(30) { self.conversations.len() - 1 } else { self.rng.below(self.conversations.len()) };
        match self.rng.below(100) {
            0..64 => self.progress(chosen),
            64..70 => self.error(chosen),
            70..75 => self.fragments(chosen),
            75..80 => self.wrong_peer(chosen),
            80..86 => self.odd_segment(chosen),
            86..90 => self.malformed(chosen),
            90..93 => self.disguised(chosen),
            _ => uninvited::stimulus(&self.layout, &mut self.rng),
        }
    }

    /// Who talks to whom.
    fn conversation(&mut self, model: &Nat) -> Conversation {
        let (rng, layout) = (&mut self.rng, &self.layout);
        let proto = rng.pick(&[Proto::Tcp, Proto::Tcp, Proto::Udp, Proto::Udp, Proto::Icmp]);
        let container = rng.below(CONTAINERS);
        let own_port = match proto {
            Proto::Icmp => rng.pick(&[77, 78, 0x8000]),
            _ if rng.chance(25) => 5000 + rng.below(200) as u16,
            Proto::Tcp => rng.pick(&[5000, 5001, 5002, 700, 80]),
            Proto::Udp => rng.pick(&[5000, 5001, 5002, 700, 53]),
        };
        let own = (Place::Container(container), at(layout.container(container), own_port));
        let outside_addr = rng.pick(&layout.outside());
        let far_port = if proto == Proto::Icmp { 0 } else { rng.pick(&[7000, 7001, 443]) };
        let far = (Place::Outside, at(outside_addr, far_port));
        let ports: Vec<_> = model.ports().iter().filter(|port| port.proto == proto).copied().collect();
        let kind = rng.below(20) / 2;
        if kind < 4 || (ports.is_empty() && kind < 9) {
            let name = Name { proto, inside: own.1, asked: far.1, host: layout.host };
            return Conversation::direct(proto, own, far, rng).named(name);
        }
        if kind >= 9 || ports.is_empty() {
            let other = (container + 1 + rng.below(CONTAINERS - 1)) % CONTAINERS;
            let port = if proto == Proto::Icmp { 0 } else { rng.pick(&[80, 53, 5000]) };
            let other = (Place::Container(other), at(layout.container(other), port));
            return Conversation::direct(proto, own, other, rng);
        }
        let port = rng.pick(&ports);
        let target = (Place::Container(port.container), at(layout.container(port.container), port.port));
        if kind < 7 {
            let client = (Place::Outside, at(outside_addr, rng.pick(&[40000, 40001, 40002])));
            return Conversation::direct(proto, client, target, rng).asking(at(layout.host, port.host_port));
        }
        let asked = at(rng.pick(&[layout.host, layout.gateway]), port.host_port);
        let name = Name { proto, inside: own.1, asked, host: asked.ip() };
        Conversation::direct(proto, own, target, rng).asking(asked).named(name)
    }

    /// What comes next, now and then with a field of its own or once more.
    fn progress(&mut self, chosen: usize) -> Stimulus {
        let rng = &mut self.rng;
        let conversation = &mut self.conversations[chosen];
        let (party, mut packet) = conversation.next(rng);
        match rng.below(30) {
            0 => packet.tos = rng.word() as u8,
            1 if packet.is_v6() => packet.flow_label = rng.below(1 << 20) as u32,
            1 => packet.dont_fragment = true,
            2 => packet.ttl = rng.pick(&[0, 1, 1, 1, 2, 255]),
            3 => malformed::adorn(&mut packet, rng),
            4 if matches!(packet.body, Body::Udp { .. }) => packet.checksum = Checksum::None,
            5 => packet.checksum = Checksum::Wrong(1 + rng.below(0xfffd) as u16),
            6 if packet.is_v6() => {
                packet.fragment = Some(Fragment { offset: 0, len: wire::transport_len(&packet), more: false });
                self.sent = self.sent.wrapping_add(2);
                packet.id = self.sent & !1;
            }
            _ => {}
        }
        let padding = if rng.chance(5) { rng.below(20) } else { 0 };
        Stimulus { padding, ..conversation.stimulus(party, packet) }
    }

    /// An error about what one of the two has got, by itself or by a router in between.
    fn error(&mut self, chosen: usize) -> Stimulus {
        let rng = &mut self.rng;
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        let payload = vec![7; rng.below(30)];
        let mut quoted = conversation.anything(party.other(), payload, rng);
        malformed::vary(&mut quoted, rng);
        let mut error = conversation.error(party, quoted, rng);
        if conversation.place(party) == Place::Outside && rng.chance(40) {
            error.src = End::At(at(rng.pick(&[self.layout.far, self.layout.stranger]), 0));
        }
        if rng.chance(10) {
            error.ttl = 1;
        }
        if rng.chance(10) {
            error.checksum = Checksum::Wrong(1 + rng.below(0xfffd) as u16);
        }
        if rng.chance(10)
            && let Body::Error(quote) = &mut error.body
            && conversation.proto != Proto::Icmp
        {
            // About somebody else's packet.
            quote.packet.dst = End::At(at(quote.packet.dst.addr(), 4444));
        }
        conversation.stimulus(party, error)
    }

    /// A datagram in pieces, which come one after the other, though not at once.
    fn fragments(&mut self, chosen: usize) -> Stimulus {
        let rng = &mut self.rng;
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        let payload = (0..48 + rng.below(40)).map(|byte| byte as u8).collect();
        let mut packet = conversation.anything(party, payload, rng);
        let total = wire::transport_len(&packet);
        let size = rng.pick(&[24, 32, 48]);
        // Identifications of datagrams are even, those of pieces that nobody knows are odd.
        let is_stray = rng.chance(15);
        self.sent = self.sent.wrapping_add(2);
        packet.id = self.sent & !1 | u16::from(is_stray);
        let is_adorned = rng.chance(10);
        if is_adorned {
            malformed::adorn(&mut packet, rng);
        }
        let mut pieces: VecDeque<Stimulus> = (0..total)
            .step_by(size)
            .map(|offset| {
                let fragment = Fragment { offset, len: size.min(total - offset), more: offset + size < total };
                conversation.stimulus(party, Packet { fragment: Some(fragment), ..packet.clone() })
            })
            .collect();
        if is_stray {
            pieces.pop_front();
        }
        if is_adorned && conversation.proto == Proto::Tcp && rng.chance(50) {
            // What the first piece may have been too early for begins before the others.
            let opening = conversation.segment(Party::First, Tcp::SYN);
            let opening = conversation.packet(Party::First, Body::Tcp(opening));
            pieces.insert(1, conversation.stimulus(Party::First, opening));
        }
        let first = pieces.pop_front().expect("more than one piece");
        self.queue.extend(pieces);
        first
    }

    /// To whom one of the two talks, but from somebody else.
    fn wrong_peer(&mut self, chosen: usize) -> Stimulus {
        let (rng, layout) = (&mut self.rng, &self.layout);
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        let mut packet = conversation.anything(party, vec![1; 3], rng);
        if let (Place::Outside, End::At(src)) = (conversation.place(party), packet.src) {
            let has_port = packet.proto() != Some(Proto::Icmp);
            let port = src.port() ^ u16::from(has_port);
            let other = rng.pick(&[at(src.ip(), port), at(layout.far, src.port()), at(layout.stranger, src.port())]);
            packet.src = End::At(other);
        } else if let End::At(dst) = packet.dst {
            let is_open = conversation.place(party.other()) == Place::Outside && party == Party::First;
            let to = if is_open { at(rng.pick(&layout.outside()), dst.port() ^ 1) } else { dst };
            packet.dst = End::At(if packet.proto() == Some(Proto::Icmp) { at(to.ip(), dst.port()) } else { to });
        }
        conversation.stimulus(party, packet)
    }

    /// A segment with flags or numbers that do not fit; a datagram of another kind.
    fn odd_segment(&mut self, chosen: usize) -> Stimulus {
        const FLAGS: [u8; 11] = [0, 0x29, 0x03, 0x06, 0x01, 0x04, 0x14, 0x12, 0x10, 0x02, 0xff];
        let rng = &mut self.rng;
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        if conversation.proto != Proto::Tcp {
            // An answer that nobody asked for, or a question where answers are due.
            let mut packet = conversation.anything(party.other(), vec![2; 4], rng);
            (packet.src, packet.dst) = conversation.sent_by(party);
            if let Body::Echo { is_reply, .. } = packet.body {
                let port = |is_askers: bool| if is_askers { 77 } else { 0 };
                packet.src = End::At(at(packet.src.addr(), port(!is_reply)));
                packet.dst = End::At(at(packet.dst.addr(), port(is_reply)));
            }
            return conversation.stimulus(party, packet);
        }
        let flags = rng.pick(&FLAGS);
        let mut tcp = conversation.segment(party, flags);
        tcp.seq = tcp.seq.wrapping_add(rng.pick(&[0, 0, 1, 1000, u32::MAX, 1 << 31]));
        conversation.stimulus(party, conversation.packet(party, Body::Tcp(tcp)))
    }

    fn malformed(&mut self, chosen: usize) -> Stimulus {
        let rng = &mut self.rng;
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        let mut packet = conversation.anything(party, vec![3; 12], rng);
        malformed::spoil(&mut packet, conversation.proto, rng);
        conversation.stimulus(party, packet)
    }

    /// As if it were somebody else.
    fn disguised(&mut self, chosen: usize) -> Stimulus {
        let (rng, layout) = (&mut self.rng, &self.layout);
        let conversation = &self.conversations[chosen];
        let party = rng.pick(&Party::BOTH);
        let mut packet = conversation.anything(party, vec![4; 5], rng);
        let Place::Container(number) = conversation.place(party) else {
            let inside = layout.container(rng.below(CONTAINERS));
            let src = rng.pick(&[&[inside, layout.gateway], layout.nobody()].concat());
            packet.src = End::At(at(src, if let End::At(src) = packet.src { src.port() } else { 0 }));
            return conversation.stimulus(party, packet);
        };
        let mut stimulus = conversation.stimulus(party, packet);
        if rng.chance(40) {
            stimulus.sender = Sender::Nobody;
        } else if let End::At(src) = stimulus.packet.src {
            let other = layout.container((number + 1) % CONTAINERS);
            let addr = rng.pick(&[&[other, other, other, layout.foreign, layout.far], layout.nobody()].concat());
            stimulus.packet.src = End::At(at(addr, src.port()));
            if addr == other && rng.chance(50) {
                stimulus.sender = Sender::Neighbour((number + 1) % CONTAINERS);
            }
        }
        stimulus
    }
}
