//! SCTP packets through raw sockets, since not every kernel has associations: addresses are translated, and every byte
//! behind them, the checksum among them, stays.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;

use netpath_tests::sockets::{PATIENCE, REFUSAL, at};
use netpath_tests::{Family, Namespace, Options, Plane, World};
use socket2::{Domain, Protocol, Socket, Type};

on_netpath! {
    a_published_port_leads_to_the_same_port_of_the_container,
    a_container_reaches_the_outside_with_its_own_port,
}

const SCTP: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// Sees every SCTP packet that reaches a namespace.
struct RawSctp {
    socket: Socket,
    family: Family,
}

fn a_published_port_leads_to_the_same_port_of_the_container(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let diameter = world.container("diameter", &["3868:3868/sctp"]);
    for family in Family::BOTH {
        let (server, client) = (RawSctp::new(&diameter.inside, family), RawSctp::new(&world.client, family));
        let init = packet(40000, 3868, INIT);
        client.send(&init, family.host());
        assert_eq!(server.receive().unwrap(), (family.client(), init));
        let ack = packet(3868, 40000, INIT_ACK);
        server.send(&ack, family.client());
        assert_eq!(client.receive().unwrap(), (family.host(), ack));
        client.send(&packet(40000, 3869, INIT), family.host());
        assert!(server.is_silent(), "the port beside is not published");
    }
}

fn a_container_reaches_the_outside_with_its_own_port(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let app = world.container("app", &[]);
    for family in Family::BOTH {
        let (inside, server) = (RawSctp::new(&app.inside, family), RawSctp::new(&world.client, family));
        let init = packet(5000, 3868, INIT);
        inside.send(&init, family.client());
        assert_eq!(server.receive().unwrap(), (family.host(), init));
        let ack = packet(3868, 5000, INIT_ACK);
        server.send(&ack, family.host());
        assert_eq!(inside.receive().unwrap(), (family.client(), ack));
        server.send(&packet(3869, 5000, INIT_ACK), family.host());
        assert!(inside.is_silent(), "nobody asked that port");
    }
}

impl RawSctp {
    fn new(namespace: &Namespace, family: Family) -> Self {
        let domain = family.pick(Domain::IPV4, Domain::IPV6);
        let socket = namespace.within(|| Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))).unwrap();
        Self { socket, family }
    }

    fn send(&self, packet: &[u8], to: IpAddr) {
        self.socket.send_to(packet, &at(to, 0).into()).unwrap();
    }

    /// The next packet, from its ports on, and who sent it.
    fn receive(&self) -> io::Result<(IpAddr, Vec<u8>)> {
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.next()
    }

    fn is_silent(&self) -> bool {
        self.socket.set_read_timeout(Some(REFUSAL)).unwrap();
        self.next().is_err()
    }

    fn next(&self) -> io::Result<(IpAddr, Vec<u8>)> {
        let mut buffer = [MaybeUninit::new(0); 256];
        let (len, from) = self.socket.recv_from(&mut buffer)?;
        // SAFETY: `len` bytes have been written by the kernel, and all of them were initialised before.
        let bytes = unsafe { buffer[..len].assume_init_ref() };
        // A raw socket of IPv4 shows the network header too.
        let header = self.family.pick(usize::from(bytes[0] & 0xf) * 4, 0);
        Ok((from.as_socket().unwrap().ip(), bytes[header..].to_vec()))
    }
}

/// A packet with one chunk of `kind` (RFC 9260, 3).
fn packet(source: u16, destination: u16, kind: u8) -> Vec<u8> {
    const CHECKSUM: std::ops::Range<usize> = 8..12;
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    // Verification tag, which is zero with INIT, and the checksum's place.
    packet.extend([[0; 4], [0; 4]].concat());
    packet.extend([kind, 0, 0, 20]);
    // Initiate tag, window, streams out and in, initial sequence number.
    packet.extend([0x12, 0x34, 0x56, 0x78, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&packet).to_le_bytes();
    packet[CHECKSUM].copy_from_slice(&sum);
    packet
}
