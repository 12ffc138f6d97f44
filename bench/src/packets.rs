//! The packets that programs are measured on, of both families, and what becomes of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpath_common::proto;
use netpath_tests::icmp::checksum;
use netpath_tests::program_world::{BRIDGE_MAC, HOST4, HOST6, PASS, REDIRECT};

/// Of A and B, so that a frame from one is good as a frame from the other.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The program of XDP, and what it says.
pub(crate) const XDP: &str = "xdp_from_external";
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_REDIRECT: i32 = 4;

/// TCP flags. Only a SYN begins a flow.
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Who there is, in one family.
pub(crate) struct Cast {
    /// The host, and where it publishes HOST_PORT.
    pub(crate) host: IpAddr,
    /// Published at each other's address.
    pub(crate) a: IpAddr,
    pub(crate) b: IpAddr,
    pub(crate) neighbour: IpAddr,
    pub(crate) client: IpAddr,
}

pub(crate) const V4: Cast = Cast {
    host: HOST4,
    a: IpAddr::V4(Ipv4Addr::new(172, 17, 0, 4)),
    b: IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2)),
    neighbour: IpAddr::V4(Ipv4Addr::new(172, 17, 0, 3)),
    client: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)),
};

pub(crate) const V6: Cast = Cast {
    host: HOST6,
    a: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 4)),
    b: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 2)),
    neighbour: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 3)),
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
};

/// What A and the host publish of B, and what B publishes of A.
pub(crate) const HOST_PORT: u16 = 8080;
pub(crate) const PORT: u16 = 80;

/// How a packet is run more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// What comes out goes in.
    InARow,
    OneByOne,
}

/// A packet for a program.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) program: &'static str,
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: i32,
    /// Source and destination afterwards.
    pub(crate) becomes: (IpAddr, IpAddr),
    pub(crate) repeat: Repeat,
    pub(crate) shortcuts: bool,
    /// What must have gone before, with shortcuts.
    pub(crate) before: Vec<Sent>,
}

/// All packets, family by family.
pub(crate) fn all() -> Vec<Sent> {
    [V4, V6].iter().flat_map(|cast| of_family(cast).into_iter().chain(at_xdp(cast))).collect()
}

/// Those for XDP, where one program serves both families.
fn at_xdp(cast: &Cast) -> Vec<Sent> {
    let Cast { host, b, client, .. } = *cast;
    let family = if host.is_ipv4() { "" } else { ", IPv6" };
    let sent = |name: &str, dst: (IpAddr, u16), verdict, becomes, repeat| Sent {
        program: XDP,
        name: format!("{name}{family}"),
        frame: udp(([0; 6], MAC), (client, 40_000), dst),
        verdict,
        becomes,
        repeat,
        shortcuts: true,
        before: Vec::new(),
    };
    vec![
        // What comes out is addressed to the container, and no good as what goes in.
        sent("UDP to a published port", (host, HOST_PORT), XDP_REDIRECT, (client, b), Repeat::OneByOne),
        sent("UDP to a container's own address", (b, PORT), XDP_DROP, (client, b), Repeat::InARow),
        sent("UDP to the host itself", (host, 40_001), XDP_PASS, (client, host), Repeat::InARow),
    ]
}

fn of_family(cast: &Cast) -> Vec<Sent> {
    let Cast { host, a, b, neighbour, client } = *cast;
    let (arriving, leaving) = (([0; 6], MAC), (BRIDGE_MAC, MAC));
    let to_neighbour = (NEIGHBOUR_MAC, MAC);
    let by_neighbour = (BRIDGE_MAC, NEIGHBOUR_MAC);
    let sent = |program: [&'static str; 2], name: &str, macs, src: (IpAddr, u16), dst: (IpAddr, u16)| Sent {
        program: if host.is_ipv4() { program[0] } else { program[1] },
        name: name.to_owned(),
        frame: tcp(macs, src, dst, ACK),
        verdict: PASS,
        becomes: (src.0, dst.0),
        repeat: Repeat::InARow,
        shortcuts: true,
        before: Vec::new(),
    };
    let from_external = ["from_external", "from_external6"];
    let to_external = ["to_external", "to_external6"];
    let from_container = ["from_container", "from_container6"];
    let redirected = |sent: Sent, becomes| Sent { verdict: REDIRECT, becomes, ..sent };
    // Of flows that have begun.
    let tracked = |sent: Sent, macs, src, dst| {
        let begin = Sent { frame: tcp(macs, src, dst, SYN), ..sent.clone() };
        Sent { repeat: Repeat::OneByOne, before: vec![begin], ..sent }
    };
    let (src, dst) = ((b, 40_000), (client, 80));
    let out = sent(from_container, "masqueraded", leaving, src, dst);
    let out = tracked(redirected(out, (host, client)), leaving, src, dst);
    let slow = sent(to_external, "masqueraded without shortcuts", leaving, src, dst);
    let (becomes, before) = ((host, client), out.before.clone());
    let slow = Sent { becomes, before, repeat: Repeat::OneByOne, shortcuts: false, ..slow };
    let (src, dst) = ((neighbour, 40_000), (host, HOST_PORT));
    let hairpin = sent(from_container, "to a neighbour's published port", by_neighbour, src, dst);
    let hairpin = tracked(redirected(hairpin, (host, b)), by_neighbour, src, dst);
    vec![
        redirected(sent(from_external, "to a published port", arriving, (client, 40_000), (a, HOST_PORT)), (client, b)),
        sent(from_external, "to the host itself", arriving, (client, 40_000), (host, 40_001)),
        sent(to_external, "from the host itself", leaving, (host, 22), (client, 40_000)),
        slow,
        redirected(sent(from_container, "from a published port", leaving, (b, PORT), (client, 40_000)), (a, client)),
        redirected(
            sent(from_container, "to a neighbour", to_neighbour, (b, PORT), (neighbour, 40_000)),
            (b, neighbour),
        ),
        out,
        hairpin,
    ]
}

/// Source and destination of a frame's packet.
pub(crate) fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    fn at<const N: usize>(frame: &[u8], off: usize) -> [u8; N] {
        frame.get(off..off + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
    if frame.get(12) == Some(&0x86) {
        (IpAddr::from(at::<16>(frame, 22)), IpAddr::from(at::<16>(frame, 38)))
    } else {
        (IpAddr::from(at::<4>(frame, 26)), IpAddr::from(at::<4>(frame, 30)))
    }
}

/// A TCP segment without data; the programs do not look at its checksum.
fn tcp(macs: ([u8; 6], [u8; 6]), src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    frame(macs, proto::TCP, src, dst, &rest)
}

/// A UDP datagram of as many bytes as [`tcp`]'s segment, with a checksum that is as good as any.
fn udp(macs: ([u8; 6], [u8; 6]), src: (IpAddr, u16), dst: (IpAddr, u16)) -> Vec<u8> {
    let rest = [0, 20, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame(macs, proto::UDP, src, dst, &rest)
}

/// A packet with 255 hops, whose transport header has `rest` behind the ports.
fn frame(macs: ([u8; 6], [u8; 6]), protocol: u8, src: (IpAddr, u16), dst: (IpAddr, u16), rest: &[u8; 16]) -> Vec<u8> {
    let mut frame = [macs.0, macs.1].concat();
    match (src.0, dst.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 255, protocol, 0, 0]);
            frame.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&frame[14..]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 255]);
            frame.extend([from.octets(), to.octets()].concat());
        }
        _ => panic!("{} and {} are not of one family", src.0, dst.0),
    }
    frame.extend([src.1.to_be_bytes(), dst.1.to_be_bytes()].concat());
    frame.extend(rest);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_the_frame_was_made_with() {
        for Cast { a, client, .. } in [V4, V6] {
            assert_eq!(addresses(&tcp((MAC, MAC), (a, 1), (client, 2), ACK)), (a, client));
        }
    }

    #[test]
    fn both_families_have_the_same_packets() {
        let names = |cast| of_family(cast).into_iter().map(|sent| sent.name).collect::<Vec<_>>();
        assert_eq!(names(&V4), names(&V6));
    }
}
