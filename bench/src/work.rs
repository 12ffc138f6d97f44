//! The kinds of work, and how each is put on a stage.

use netpath_tests::CLIENT;

use crate::datagrams;
use crate::iperf::{self, Direction};
use crate::kind::Kind;
use crate::record::Sample;
use crate::spread::Spread;
use crate::stage::{OUTSIDE, Service, Stage, url};
use crate::traffic::{Attached, Datagram, Port, Receiving, Sink, Traffic, received, v4};
use crate::wrk::{self, Load};

/// From where to where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client to a published port.
    Published,
    /// A container to the client.
    Masquerade,
    /// A container to its neighbour.
    Containers,
    /// The host to a published port at 127.0.0.1.
    HostLoopback,
    /// A container to a port that its neighbour publishes, at the host's address.
    Hairpin,
}

/// What a contestant is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Http(Way, Load),
    Bulk(Direction, u32),
    /// Datagrams to a published port through sockets.
    Datagrams,
    /// Datagrams to a published port.
    Udp,
    /// Datagrams that no data plane is part of: what making and dropping them costs.
    Floor(Floor),
    /// Datagrams to a container's own address from outside.
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    MakeOnly,
    RedirectOnly,
    TcDrop,
    XdpDrop,
}

impl Work {
    pub fn name(self) -> String {
        match self {
            Self::Http(way, load) => {
                let load = match load {
                    Load::NewConnections => "new-connections",
                    Load::KeepAlive => "keep-alive",
                };
                match way {
                    Way::Published => load.to_owned(),
                    Way::Masquerade => format!("masquerade-{load}"),
                    Way::Containers => format!("containers-{load}"),
                    Way::HostLoopback => format!("host-loopback-{load}"),
                    Way::Hairpin => format!("hairpin-{load}"),
                }
            }
            Self::Bulk(Direction::In, streams) => format!("bulk-in-{streams}"),
            Self::Bulk(Direction::Out, streams) => format!("bulk-out-{streams}"),
            Self::Datagrams => "udp-sockets".to_owned(),
            Self::Udp | Self::Floor(_) => "udp".to_owned(),
            Self::Flood => "flood".to_owned(),
        }
    }

    pub fn about(self) -> String {
        match self {
            Self::Http(way, load) => {
                let what = match load {
                    Load::NewConnections => "a new connection for every request",
                    Load::KeepAlive => "requests on connections that stay",
                };
                let way = match way {
                    Way::Published => "client to published port",
                    Way::Masquerade => "container to a server outside",
                    Way::Containers => "container to container",
                    Way::HostLoopback => "host to its published port at 127.0.0.1",
                    Way::Hairpin => "container to a published port at the host's address",
                };
                format!("{way}: {what}")
            }
            Self::Bulk(direction, streams) => {
                let way = if direction == Direction::In { "client to container" } else { "container to client" };
                format!("{way}: {streams} TCP stream{}", if streams == 1 { "" } else { "s" })
            }
            Self::Datagrams => "64-byte UDP datagrams from a socket of the client to a published port".to_owned(),
            Self::Udp | Self::Floor(_) => "64-byte UDP datagrams to a published port, made in the kernel".to_owned(),
            Self::Flood => "64-byte UDP datagrams to a container's own address from outside: all dropped".to_owned(),
        }
    }

    pub fn command(self, seconds: u32) -> String {
        match self {
            Self::Http(_, load) => {
                let options: String = load.options().iter().map(|option| format!(" '{option}'")).collect();
                format!("wrk -t1 -c32 --timeout 2s -d{seconds}s{options} URL")
            }
            Self::Bulk(direction, streams) => {
                let reverse = if direction == Direction::Out { " -R" } else { "" };
                format!("iperf3 -c HOST -t {seconds} -P {streams}{reverse}")
            }
            Self::Datagrams => format!("sendmmsg, recvmmsg, 64 at once, at most 4096 on their way, {seconds} s"),
            Self::Udp | Self::Floor(_) | Self::Flood => {
                "BPF_PROG_TEST_RUN, BPF_F_TEST_XDP_LIVE_FRAMES, batch 64, one CPU".to_owned()
            }
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Http(..) => "requests/s",
            Self::Bulk(..) => "Gbit/s",
            Self::Datagrams => "packets/s",
            Self::Udp | Self::Floor(_) | Self::Flood => "ns/packet",
        }
    }

    pub fn lower_is_better(self) -> bool {
        matches!(self, Self::Udp | Self::Floor(_) | Self::Flood)
    }

    /// Whether `kind` has this kind of traffic, and it says something about it.
    pub fn takes(self, kind: Kind) -> bool {
        use Kind::{DockerProxy, Forward, Host, IptablesLegacy, IptablesNft, NetpathXdp, Nftables};
        let is_rules = matches!(kind, IptablesLegacy | IptablesNft);
        match self {
            // XDP is at the wire to the client.
            Self::Http(Way::Masquerade | Way::Containers | Way::HostLoopback | Way::Hairpin, _)
                if kind == NetpathXdp =>
            {
                false
            }
            // Where the proxy has nothing to do, its contestant is iptables-nft once more.
            Self::Http(Way::Published | Way::Masquerade, _) | Self::Bulk(..) | Self::Datagrams => kind != DockerProxy,
            // Nothing of nftables meets a bridged packet.
            Self::Http(Way::Containers, _) => !matches!(kind, DockerProxy | Host | Nftables),
            Self::Http(Way::HostLoopback, _) => !matches!(kind, Forward | Nftables),
            Self::Http(Way::Hairpin, _) => !matches!(kind, Host | Forward | Nftables),
            Self::Udp => !matches!(kind, DockerProxy | Host),
            Self::Floor(_) => kind == Forward,
            Self::Flood => is_rules || kind.is_netpath(),
        }
    }

    /// The name under which the results of `contestant` are kept.
    pub fn label(self, contestant: &str) -> String {
        match self {
            Self::Floor(Floor::MakeOnly) => "make-only".to_owned(),
            Self::Floor(Floor::RedirectOnly) => "redirect-only".to_owned(),
            Self::Floor(Floor::TcDrop) => "tc-drop".to_owned(),
            Self::Floor(Floor::XdpDrop) => "xdp-drop".to_owned(),
            _ => contestant.to_owned(),
        }
    }

    /// Does it for some `seconds`; panics when it cannot be done.
    pub fn run(self, stage: &Stage, traffic: &mut Traffic, seconds: u32) -> Sample {
        match self {
            Self::Http(way, load) => http(stage, way, load, seconds),
            Self::Bulk(direction, streams) => {
                let bulk = iperf::run(stage.client(), stage.published(Service::Iperf), direction, streams, seconds);
                Sample::of(bulk.gbit_per_second).with("cpu_seconds_per_gb", bulk.cpu_seconds_per_gb)
            }
            Self::Datagrams => {
                let (to, port) = (stage.published(Service::Udp), stage.inside(Service::Udp).1);
                let outcome = datagrams::run(stage.client(), to, &stage.server, port, seconds);
                let sample = Sample::of(outcome.per_second).with("cpu_ns_per_packet", outcome.cpu_ns_per_packet);
                sample.with("lost_share", outcome.lost_share)
            }
            Self::Udp => forward(stage, traffic, None, seconds),
            Self::Floor(floor) => forward(stage, traffic, Some(floor), seconds),
            Self::Flood => flood(stage, traffic, seconds),
        }
    }
}

fn http(stage: &Stage, way: Way, load: Load, seconds: u32) -> Sample {
    let loopback = std::net::Ipv4Addr::LOCALHOST.into();
    let (from, to) = match way {
        Way::Published => (stage.client(), stage.published(Service::Web)),
        Way::Masquerade => (&*stage.app, OUTSIDE),
        Way::Containers => (&*stage.app, stage.inside(Service::Neighbour)),
        Way::HostLoopback => (stage.host(), (loopback, Service::Loopback.ports().1)),
        Way::Hairpin => (&*stage.app, stage.published(Service::Hairpin)),
    };
    let rate = wrk::run(from, &stage.dir(), &url(to), load, seconds);
    Sample::of(rate.per_second).with("p50_us", rate.p50_us).with("p99_us", rate.p99_us).with("p999_us", rate.p999_us)
}

/// Frames before those that count.
const WARM_UP: u32 = 1 << 15;

/// Of all frames, as many must arrive.
const ENOUGH: f64 = 0.9;

fn forward(stage: &Stage, traffic: &mut Traffic, floor: Option<Floor>, seconds: u32) -> Sample {
    let wire = Port { namespace: stage.host(), ifname: "up0" };
    let inside = Port { namespace: &stage.server, ifname: "eth0" };
    let _receiving = Receiving::new(wire);
    let mut sinks: Vec<Attached> = Vec::new();
    match floor {
        Some(Floor::MakeOnly) => {}
        Some(Floor::TcDrop) => sinks.push(traffic.attach(wire, Sink::Drop)),
        Some(Floor::XdpDrop) => sinks.push(traffic.attach(wire, Sink::DropEarly)),
        Some(Floor::RedirectOnly) => {
            sinks.push(traffic.attach(inside, Sink::Drop));
            let veth = stage.server_veth().expect("a container's interface");
            sinks.push(traffic.attach(wire, Sink::Redirect(veth)));
        }
        None => sinks.push(traffic.attach(inside, Sink::Drop)),
    }
    let (to, port) = stage.published(Service::Udp);
    let datagram = Datagram { src: (v4(CLIENT), 40_000), dst: (v4(to), port), src_ports: 1 };
    let is_made_only = floor == Some(Floor::MakeOnly);
    let count = |traffic: &mut Traffic| if is_made_only { traffic.made() } else { traffic.arrived() };
    per_packet(stage, traffic, datagram, is_made_only, seconds, count)
}

fn flood(stage: &Stage, traffic: &mut Traffic, seconds: u32) -> Sample {
    let wire = Port { namespace: stage.host(), ifname: "up0" };
    let _receiving = Receiving::new(wire);
    let _sink = traffic.attach(Port { namespace: &stage.server, ifname: "eth0" }, Sink::Drop);
    let before = traffic.arrived();
    let datagram = Datagram { src: (v4(CLIENT), 40_000), dst: (v4(stage.server_addr), 2900), src_ports: 1 };
    let sample = per_packet(stage, traffic, datagram, false, seconds, |_| received(wire));
    let through = traffic.arrived() - before;
    assert_eq!(through, 0, "{}: datagrams reached the container", stage.kind.name());
    sample
}

/// Frames are sent in so many parts: what else the machine does falls on some of them.
const PARTS: u32 = 10;

/// Sends from the client for about `seconds`, or only makes what would be sent, and divides the time by what `count` says
/// has been done, part by part.
fn per_packet(
    stage: &Stage,
    traffic: &mut Traffic,
    datagram: Datagram,
    is_made_only: bool,
    seconds: u32,
    count: impl Fn(&mut Traffic) -> u64,
) -> Sample {
    let client = stage.client();
    traffic.order(Port { namespace: client, ifname: "eth0" }, stage.host().mac("up0"), datagram);
    if is_made_only {
        traffic.keep_frames();
    }
    let warm_up = traffic.send(client, WARM_UP);
    let frames = f64::from(WARM_UP) * f64::from(seconds) / warm_up.as_secs_f64() / f64::from(PARTS);
    let frames = frames.clamp(1e4, 1e7) as u32;
    let (mut ns, mut lost) = (Vec::new(), 0.0);
    for _ in 0..PARTS {
        let before = count(traffic);
        let took = traffic.send(client, frames);
        let done = (count(traffic) - before) as f64;
        ns.push(took.as_secs_f64() * 1e9 / done);
        lost += (1.0 - done / f64::from(frames)) / f64::from(PARTS);
    }
    assert!(lost <= 1.0 - ENOUGH, "{}: {:.0} % of the frames were lost", stage.kind.name(), lost * 100.0);
    Sample::of(Spread::of(ns).median).with("lost_share", lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_proxys_own_work_is_given_to_it() {
        let new = Load::NewConnections;
        assert!(Work::Http(Way::Hairpin, new).takes(Kind::DockerProxy));
        assert!(!Work::Http(Way::Published, new).takes(Kind::DockerProxy));
        assert!(!Work::Http(Way::Hairpin, new).takes(Kind::Host));
    }

    #[test]
    fn commands_can_be_typed() {
        let command = Work::Http(Way::Published, Load::NewConnections).command(2);
        assert_eq!(command, "wrk -t1 -c32 --timeout 2s -d2s '-H' 'Connection: close' URL");
        assert_eq!(Work::Bulk(Direction::Out, 8).command(1), "iperf3 -c HOST -t 1 -P 8 -R");
    }
}
