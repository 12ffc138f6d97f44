//! What chance would hardly ever do: time passes at the very moment at which it tells whether something was believed.

use std::collections::VecDeque;

use netpath_model::{Body, Proto, Tcp};

use crate::conversation::{Conversation, Party};
use crate::rng::Rng;
use crate::step::Step;

/// Something that must not change for how long a flow lives, a silence that ends it if it has, and one more packet.
pub fn after_silence(conversation: &Conversation, rng: &mut Rng) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    let send = |party, packet| Step::Send(Box::new(conversation.stimulus(party, packet)));
    if conversation.proto == Proto::Tcp {
        // Not at the sequence number at which its receiver would believe it.
        let mut tcp = conversation.segment(Party::Second, Tcp::RST);
        tcp.seq = tcp.seq.wrapping_add(1000);
        steps.push_back(send(Party::Second, conversation.packet(Party::Second, Body::Tcp(tcp))));
        steps.push_back(Step::Advance(310));
    } else {
        let (before, after) =
            if conversation.proto == Proto::Icmp { (45, 45) } else { rng.pick(&[(70, 70), (250, 70)]) };
        let quoted = conversation.anything(Party::First, vec![9; 12], rng);
        steps.push_back(send(Party::First, conversation.anything(Party::First, vec![8; 3], rng)));
        steps.push_back(Step::Advance(before));
        steps.push_back(send(Party::Second, conversation.error(Party::Second, quoted, rng)));
        steps.push_back(Step::Advance(after));
    }
    steps.push_back(send(Party::Second, conversation.anything(Party::Second, vec![7; 4], rng)));
    steps
}
