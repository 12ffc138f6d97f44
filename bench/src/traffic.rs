//! Packets made in the kernel: an XDP program run through BPF_PROG_TEST_RUN on live frames redirects them into a veth, so
//! that what the other end makes of them is all that takes time.
//!
//! The other end gets such frames only while its merging (GRO) is on, which veths have off by default; it is turned on
//! for as long as this lasts, for every contestant alike.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use netpath_bench_ebpf::{FRAME_LEN, Order};
use netpath_tests::{Namespace, program};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::stage::set_feature;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpath-bench-programs"));

/// The eBPF object with the bench's programs.
pub(crate) fn object() -> &'static [u8] {
    OBJECT
}

/// Frames that the kernel takes in one go; more than 256 would overflow a veth's ring.
const BATCH: u32 = 64;

/// What gets rid of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// tc ingress: the kernel has made a packet of the frame.
    Drop,
    /// XDP: before it does.
    DropEarly,
    /// tc ingress: into the container whose host-side interface has this index.
    Redirect(u32),
}

/// An interface by its namespace and name.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    pub namespace: &'a Namespace,
    pub ifname: &'a str,
}

/// UDP datagrams from one address to another.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub src: (Ipv4Addr, u16),
    pub dst: (Ipv4Addr, u16),
    /// See [`Order::src_ports`].
    pub src_ports: u32,
}

/// The programs, loaded once.
pub struct Traffic {
    ebpf: Ebpf,
    order: Option<Order>,
}

/// Ends with the program that it keeps attached.
pub enum Attached {
    Tc { _link: SchedClassifierLink },
    Xdp { _link: XdpLink },
}

/// An interface that receives generated frames as long as this lives.
pub struct Receiving<'a> {
    port: Port<'a>,
    was_on: bool,
}

impl Traffic {
    pub fn load() -> Self {
        let mut ebpf = Ebpf::load(OBJECT).unwrap_or_else(|e| panic!("load the bench's eBPF programs: {e}"));
        for name in ["generate", "count_and_drop_early"] {
            xdp(&mut ebpf, name).load().unwrap_or_else(|e| panic!("load `{name}`: {e}"));
        }
        for name in ["count_and_drop", "redirect_only"] {
            classifier(&mut ebpf, name).load().unwrap_or_else(|e| panic!("load `{name}`: {e}"));
        }
        Self { ebpf, order: None }
    }

    /// Attaches `sink` where `port` receives.
    pub fn attach(&mut self, port: Port<'_>, sink: Sink) -> Attached {
        if let Sink::Redirect(ifindex) = sink {
            let mut target: Array<_, u32> = map(&mut self.ebpf, "TARGET");
            target.set(0, ifindex, 0).expect("set the target");
        }
        let ebpf = &mut self.ebpf;
        let complain = |e| -> ! { panic!("attach {sink:?} to {}: {e}", port.ifname) };
        port.namespace.within(|| match sink {
            Sink::DropEarly => {
                let program = xdp(ebpf, "count_and_drop_early");
                let link = program.attach(port.ifname, XdpMode::Driver).unwrap_or_else(|e| complain(e));
                Attached::Xdp { _link: program.take_link(link).expect("a link that was just made") }
            }
            Sink::Drop | Sink::Redirect(_) => {
                let name = if sink == Sink::Drop { "count_and_drop" } else { "redirect_only" };
                let program = classifier(ebpf, name);
                let link = program.attach(port.ifname, TcAttachType::Ingress).unwrap_or_else(|e| complain(e));
                Attached::Tc { _link: program.take_link(link).expect("a link that was just made") }
            }
        })
    }

    /// Decides what frames are made: out of `port`, to the hardware address `to`.
    pub fn order(&mut self, port: Port<'_>, to: [u8; 6], datagram: Datagram) {
        let macs = [to, port.namespace.mac(port.ifname)];
        let order = Order { ifindex: ifindex(port), src_ports: datagram.src_ports, frame: frame(macs, datagram) };
        self.put(order);
        let mut made: Array<_, u64> = map(&mut self.ebpf, "MADE");
        made.set(0, 0, 0).expect("reset the count of frames");
    }

    /// What is ordered is made and goes nowhere.
    pub fn keep_frames(&mut self) {
        let order = self.order.expect("an order");
        self.put(Order { ifindex: 0, ..order });
    }

    fn put(&mut self, order: Order) {
        let mut orders: Array<_, [u8; 72]> = map(&mut self.ebpf, "ORDER");
        orders.set(0, order.bytes(), 0).expect("set the order");
        self.order = Some(order);
    }

    /// Frames made since the order.
    pub fn made(&mut self) -> u64 {
        let made: Array<_, u64> = map(&mut self.ebpf, "MADE");
        made.get(&0, 0).expect("read the count of frames")
    }

    /// Sends `count` frames as ordered, from `namespace`; returns how long that took, with all that the receiver did in
    /// between, which runs on the same CPU.
    pub fn send(&mut self, namespace: &Namespace, count: u32) -> Duration {
        let program = xdp(&mut self.ebpf, "generate");
        namespace.within(|| {
            stay_on_one_cpu();
            let options = TestRunOptions {
                data_in: Some(&[0; FRAME_LEN]),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            let start = Instant::now();
            program.test_run(options).unwrap_or_else(|e| panic!("make frames in the kernel: {e}"));
            start.elapsed()
        })
    }

    /// Frames counted so far by the sinks that drop.
    pub fn arrived(&mut self) -> u64 {
        let map = self.ebpf.map("ARRIVED").expect("map ARRIVED");
        let counts: PerCpuArray<_, u64> = map.try_into().expect("a per-CPU array");
        counts.get(&0, 0).expect("read the count").iter().sum()
    }
}

impl<'a> Receiving<'a> {
    pub fn new(port: Port<'a>) -> Self {
        let features = program::stdout_of(port.namespace.command("ethtool").args(["-k", port.ifname]));
        let was_on = features.contains("generic-receive-offload: on");
        if !was_on {
            set_feature(port.namespace, port.ifname, "gro", true);
        }
        Self { port, was_on }
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        if !self.was_on {
            let mut command = self.port.namespace.command("ethtool");
            let _ = command.args(["-K", self.port.ifname, "gro", "off"]).output();
        }
    }
}

/// The index of an interface, and that of its other end.
pub fn ifindex(port: Port<'_>) -> u32 {
    numbers(port).0
}

pub fn other_end(port: Port<'_>) -> u32 {
    numbers(port).1
}

/// The name of interface number `index`.
pub fn ifname(namespace: &Namespace, index: u32) -> String {
    let links = namespace.ip("-o link show");
    let line = links.lines().find(|line| line.starts_with(&format!("{index}: ")));
    let name = line.and_then(|line| line.split(": ").nth(1)?.split('@').next());
    name.unwrap_or_else(|| panic!("no interface {index} in:\n{links}")).to_owned()
}

/// Packets that an interface has received.
pub fn received(port: Port<'_>) -> u64 {
    let shown = port.namespace.ip(&format!("-j -s link show dev {}", port.ifname));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("json from ip");
    shown[0]["stats64"]["rx"]["packets"].as_u64().expect("a number of packets")
}

fn numbers(port: Port<'_>) -> (u32, u32) {
    // `7: eth0@if8: ...`
    let shown = port.namespace.ip(&format!("-o link show dev {}", port.ifname));
    let index = shown.split(':').next().and_then(|text| text.parse().ok());
    let other = shown.split("@if").nth(1).and_then(|text| text.split(':').next()?.parse().ok());
    index.zip(other).unwrap_or_else(|| panic!("{} is no veth: {shown}", port.ifname))
}

/// On the last CPU: the first one has the most interrupts.
fn stay_on_one_cpu() {
    let last = std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
    let mut cpus = CpuSet::new();
    if cpus.set(last).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }
}

/// A frame to MAC, from MAC, with a datagram of 22 bytes and without UDP checksum.
fn frame(macs: [[u8; 6]; 2], datagram: Datagram) -> [u8; FRAME_LEN] {
    const IP_LEN: u16 = FRAME_LEN as u16 - 14;
    let mut bytes = Vec::with_capacity(FRAME_LEN);
    bytes.extend(macs.concat());
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend(IP_LEN.to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(datagram.src.0.octets());
    bytes.extend(datagram.dst.0.octets());
    bytes.extend(datagram.src.1.to_be_bytes());
    bytes.extend(datagram.dst.1.to_be_bytes());
    bytes.extend((IP_LEN - 20).to_be_bytes());
    bytes.resize(FRAME_LEN, 0);
    let sum: u32 = bytes[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes.try_into().expect("64 bytes")
}

/// An address of IPv4, which all generated frames are of.
pub fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).unwrap_or_else(|| panic!("no program `{name}`"))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).unwrap_or_else(|| panic!("no program `{name}`"))
}

fn map<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, T> {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("no map `{name}`"));
    Array::try_from(map).unwrap_or_else(|e| panic!("map `{name}`: {e}"))
}

#[cfg(test)]
mod tests {
    use netpath_bench_ebpf::{DST_PORT_OFF, SRC_PORT_OFF};

    use super::*;

    #[test]
    fn a_frame_is_a_whole_ip_packet() {
        let (src, dst) = ((Ipv4Addr::new(198, 18, 0, 2), 1024), (Ipv4Addr::new(198, 18, 0, 1), 2900));
        let bytes = frame([[2; 6], [4; 6]], Datagram { src, dst, src_ports: 1 });
        let sum: u32 = bytes[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(bytes[SRC_PORT_OFF..SRC_PORT_OFF + 2], 1024u16.to_be_bytes());
        assert_eq!(bytes[DST_PORT_OFF..DST_PORT_OFF + 2], 2900u16.to_be_bytes());
        assert_eq!(bytes[16..18], 50u16.to_be_bytes());
    }
}
