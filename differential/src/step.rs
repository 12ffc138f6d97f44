//! What may happen in both worlds, one step after the other, and how it is told.

use std::fmt;

use netpath_model::packet::Quote;
use netpath_model::{Body, End, Packet, Place, Port, Tcp};

#[derive(Clone, Debug)]
pub enum Step {
    Send(Box<Stimulus>),
    /// So many seconds pass in silence.
    Advance(u32),
    Publish(Port),
    Unpublish(Port),
    /// The container of this number goes, and another one gets its address at once.
    Replace(usize),
    /// netpath's agent ends and starts again, which must not show.
    RestartAgent,
}

/// A packet and how it is sent.
#[derive(Clone, Debug)]
pub struct Stimulus {
    pub from: Place,
    pub via: Via,
    pub sender: Sender,
    /// Bytes behind the packet, as Ethernet's padding.
    pub padding: usize,
    pub packet: Packet,
}

/// Whose hardware address the frame is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Itself,
    /// That of the container of this number.
    Neighbour(usize),
    /// Nobody's.
    Nobody,
}

/// Whose hardware address the frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The host's.
    Host,
    /// That of the container of this number.
    Neighbour(usize),
}

impl Stimulus {
    pub fn new(from: Place, packet: Packet) -> Self {
        Self { from, via: Via::Host, sender: Sender::Itself, padding: 0, packet }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(stimulus) => stimulus.fmt(f),
            Self::Advance(seconds) => write!(f, "{seconds} s pass"),
            Self::Publish(port) => write!(f, "publish {port:?}"),
            Self::Unpublish(port) => write!(f, "unpublish {port:?}"),
            Self::Replace(number) => write!(f, "replace container {number}"),
            Self::RestartAgent => f.write_str("restart the agent"),
        }
    }
}

impl fmt::Display for Stimulus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} sends {}", self.from, Told(&self.packet))?;
        if let Via::Neighbour(number) = self.via {
            write!(f, ", to the hardware address of container {number}")?;
        }
        if self.sender != Sender::Itself {
            write!(f, ", from the hardware address of {:?}", self.sender)?;
        }
        if self.padding > 0 {
            write!(f, ", padded by {} bytes", self.padding)?;
        }
        Ok(())
    }
}

/// A packet in one line.
pub struct Told<'a>(pub &'a Packet);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        match &packet.body {
            Body::Tcp(tcp) => tell_segment(tcp, f)?,
            Body::Udp { payload } => write!(f, "udp({})", payload.len())?,
            Body::Echo { is_reply, payload, .. } => {
                write!(f, "echo {}({})", if *is_reply { "reply" } else { "request" }, payload.len())?;
            }
            Body::Error(Quote { kind, code, packet, len, .. }) => {
                write!(f, "error {kind:?}/{code} about {} bytes of [{}]", (*len).min(9999), Told(packet))?;
            }
            Body::OtherIcmp { kind, .. } => write!(f, "icmp of type {kind}")?,
            Body::Other { proto, .. } => write!(f, "protocol {proto}")?,
        }
        write!(f, " {} > {} ttl {} id {}", ToldEnd(&packet.src), ToldEnd(&packet.dst), packet.ttl, packet.id)?;
        if packet.tos != 0 || packet.dont_fragment || !packet.options.is_empty() {
            write!(f, " tos {} df {} options {:02x?}", packet.tos, packet.dont_fragment, packet.options)?;
        }
        if packet.flow_label != 0 || !packet.extensions.is_empty() {
            write!(f, " flow label {:#x} {:?}", packet.flow_label, packet.extensions)?;
        }
        if packet.checksum != netpath_model::Checksum::Right {
            write!(f, " checksum {:?}", packet.checksum)?;
        }
        packet.fragment.iter().try_for_each(|fragment| write!(f, " {fragment:?}"))?;
        packet.flaw.iter().try_for_each(|flaw| write!(f, " flaw {flaw:?}"))
    }
}

fn tell_segment(tcp: &Tcp, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let letters = ["F", "S", "R", "P", "A", "U", "E", "C"];
    let flags: String = (0..8).filter(|bit| tcp.flags >> bit & 1 == 1).map(|bit| letters[bit]).collect();
    write!(f, "tcp [{flags}] seq {} ack {} ({})", tcp.seq, tcp.ack, tcp.payload.len())
}

struct ToldEnd<'a>(&'a End);

impl fmt::Display for ToldEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            End::At(at) => at.fmt(f),
            End::Name(name) => write!(f, "<name of {} to {}>", name.inside, name.asked),
        }
    }
}
