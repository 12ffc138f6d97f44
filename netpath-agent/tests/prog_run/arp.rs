//! What a container says by ARP.

use std::net::{IpAddr, Ipv4Addr};

use crate::ipv4::{C1, C2};
use crate::setup::{C1_MAC, C2_MAC, DROP, PASS, Plane, addr4};

#[test]
fn a_container_speaks_arp_for_itself_only() {
    let plane = Plane::new();
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ask = |src_mac: [u8; 6], mac: [u8; 6], addr: IpAddr, target: IpAddr| {
        let mut frame = [[0xff; 6], src_mac].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend(addr4(addr).0);
        frame.extend([0; 6]);
        frame.extend(addr4(target).0);
        frame
    };
    let arp = |mac, addr| ask(C1_MAC, mac, addr, C2);
    assert_eq!(plane.run("from_container", &arp(C1_MAC, C1)).verdict, PASS);
    // A probe: it speaks for the address that it asks for.
    assert_eq!(plane.run("from_container", &ask(C1_MAC, C1_MAC, nobody, C1)).verdict, PASS);
    assert_eq!(plane.run("from_container", &ask(C1_MAC, C1_MAC, nobody, C2)).verdict, DROP);
    // With a neighbour's hardware address it would teach the bridge that the neighbour is here.
    for target in [C1, nobody] {
        assert_eq!(plane.run("from_container", &ask(C2_MAC, C2_MAC, nobody, target)).verdict, DROP);
    }
    assert_eq!(plane.run("from_container", &arp(C1_MAC, C2)).verdict, DROP);
    assert_eq!(plane.run("from_container", &arp(C1_MAC, IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)))).verdict, DROP);
    assert_eq!(plane.run("from_container", &arp(C2_MAC, C2)).verdict, DROP);
}
