//! RFC 6888: what many who share one address may ask. A container is the subscriber.

use netpath_tests::packets::Packet;
use netpath_tests::sockets::at;
use netpath_tests::{Family, program};

use super::record::Met;
use super::testbed::{Setup, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    5, "RFC 6888: limits";

    req_4_one_container_leaves_flows_for_others(Both): "REQ-4", Must, netfilter NotRun, netpath Met,
        with super::few_flows; "A container that begins as many flows as it can leaves some for its neighbour";
    req_4_one_container_leaves_ports_for_others(Both): "REQ-4", Must, netfilter Unmet, netpath Met,
        with super::some_ports; "A container that takes all ports towards a server leaves some for its neighbour";
    req_11_a_full_table_keeps_what_is_in_it(Both): "REQ-11", Must, netfilter NotRun, netpath Met,
        with super::few_flows; "When the table of flows is full, new flows are refused and living ones stay";
    req_11_exhausted_ports_keep_what_they_have(Both): "REQ-11", Must, netfilter Met, netpath Met,
        with super::few_ports; "When outside ports run out, new flows are refused and living ones keep theirs";
    req_11_other_destinations_stay_reachable(Both): "REQ-11", Nice, netfilter Met, netpath Met,
        with super::few_ports; "When ports run out towards one destination, others are still reached (RFC 7857, 3)";
}

const FLOWS: u16 = 64;
pub(crate) const FEW_PORTS: &str = "30000-30003";
const SOME_PORTS: &str = "30000-30127";

/// The table of a namespace's connections is the machine's on netfilter.
fn few_flows() -> Setup {
    Setup::agent(&format!("--max-flows {FLOWS}"))
}

pub(crate) fn few_ports() -> Setup {
    Setup::agent(&format!("--masquerade-ports {FEW_PORTS}"))
}

fn some_ports() -> Setup {
    Setup::agent(&format!("--masquerade-ports {SOME_PORTS}"))
}

fn req_11_a_full_table_keeps_what_is_in_it(bed: &mut Testbed) -> Met {
    let first = bed.udp_out(App, 5000, at(bed.server(), 7000))?.from();
    bed.udp_in(at(bed.server(), 7000), first, App)?;
    let mut passed = 0;
    for port in 0..2 * FLOWS {
        let packet = Packet::udp(bed.end(App, 10_000 + port), at(bed.server(), 7001), b"one more");
        passed += usize::from(bed.send(App, &packet).one(Server).is_ok());
    }
    require(passed < usize::from(FLOWS), "more flows than the table has")?;
    require(passed > usize::from(FLOWS) / 4, "few flows pass at all")?;
    bed.udp_in(at(bed.server(), 7000), first, App)?;
    require(bed.udp_out(App, 5000, at(bed.server(), 7000))?.from() == first, "a living flow has lost its port")
}

fn req_4_one_container_leaves_flows_for_others(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7001);
    for port in 0..4 * FLOWS {
        let packet = Packet::udp(bed.end(App, 10_000 + port), server, b"one more");
        bed.send(App, &packet);
    }
    for port in 5000..5004 {
        bed.udp_out(Other, port, server).map_err(|_| "the neighbour gets no flow".to_owned())?;
    }
    Ok(())
}

fn req_4_one_container_leaves_ports_for_others(bed: &mut Testbed) -> Met {
    limit_ports(bed, SOME_PORTS);
    let server = at(bed.server(), 7000);
    let mut taken = 0;
    for port in 10_000..10_512 {
        let packet = Packet::udp(bed.end(App, port), server, b"one more");
        taken += u32::from(bed.send(App, &packet).one(Server).is_ok());
    }
    require((64..=128).contains(&taken), "another number of flows than there are ports")?;
    for port in 5000..5004 {
        bed.udp_out(Other, port, server).map_err(|_| "the neighbour gets no port".to_owned())?;
    }
    Ok(())
}

/// Docker's rules with as few ports as netpath has in this row.
pub(crate) fn limit_ports(bed: &Testbed, ports: &str) {
    if bed.is_netpath() {
        return;
    }
    for (family, command) in Family::BOTH.iter().zip(["iptables", "ip6tables"]) {
        let subnet = bed.world.network("bridge").subnet(*family);
        let rule = format!("-I POSTROUTING -s {subnet} ! -o docker0 -p udp -j MASQUERADE --to-ports {ports}");
        let mut command = bed.world.host.command(command);
        program::stdout_of(command.args(["-t", "nat", "-w"]).args(rule.split(' ')));
    }
}

/// Flows from two containers to one destination until one does not pass; the ports inside and outside.
fn exhaust(bed: &mut Testbed) -> Result<Vec<(Station, u16, u16)>, String> {
    limit_ports(bed, FEW_PORTS);
    let server = at(bed.server(), 7000);
    let mut open = Vec::new();
    for port in 5000..5010 {
        for station in [App, Other] {
            let packet = Packet::udp(bed.end(station, port), server, b"one more");
            if let Ok(seen) = bed.send(station, &packet).one(Server) {
                open.push((station, port, seen.from().port()));
            }
        }
    }
    require(!open.is_empty() && open.len() <= 4, "more flows than ports")?;
    Ok(open)
}

fn req_11_exhausted_ports_keep_what_they_have(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    for (station, port, outside) in exhaust(bed)? {
        bed.udp_in(server, bed.host_end(outside), station)?;
        require(bed.udp_out(station, port, server)?.from().port() == outside, "a living flow has lost its port")?;
    }
    Ok(())
}

fn req_11_other_destinations_stay_reachable(bed: &mut Testbed) -> Met {
    exhaust(bed)?;
    bed.udp_out(Other, 6000, at(bed.second_server(), 7000)).map(drop)
}
