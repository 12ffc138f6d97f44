//! The data plane that programs are measured on: three containers, ports that lead round in a circle, and the host's.

use netpath_agent::datapath::Sizes;
use netpath_common::{endpoint_flag, proto};
use netpath_tests::program_world::{Extent, Inhabitant, ProgramWorld};

use crate::packets::{HOST_PORT, MAC, NEIGHBOUR_MAC, PORT, V4, V6};

/// Loads the programs and fills the maps, in a network namespace that this thread moves into.
pub(crate) fn load() -> ProgramWorld {
    let sizes = Sizes { max_flows: 1024, max_ports: 1024, max_endpoints: 8, max_counters: 32 };
    let inhabitants = [(V4.a, V6.a, MAC), (V4.b, V6.b, MAC), (V4.neighbour, V6.neighbour, NEIGHBOUR_MAC)];
    let inhabitants =
        inhabitants.map(|(addr4, addr6, mac)| Inhabitant { addr4, addr6, mac, flags: endpoint_flag::XDP });
    let mut world = ProgramWorld::new("programs", sizes, &inhabitants);
    for cast in [&V4, &V6] {
        let (a, b) = ((cast.a, HOST_PORT), (cast.b, PORT));
        // What B sends from its port comes from A, not from the host: what is published last decides.
        for (host, container) in [((cast.host, HOST_PORT), b), (a, b), (b, a)] {
            world.publish(proto::TCP, host, container, Extent::Port);
        }
        world.publish(proto::UDP, (cast.host, HOST_PORT), b, Extent::Port);
    }
    world
}
