//! Docker Engine's bridge networks on one host without the engine: bridges, veths, sysctls, the rules that
//! `iptables.rs` knows, and, where the plane has it, one `docker-proxy` for each published port.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::docker_proxy::{self, Proxy};
use crate::iptables::{self, Port, Rule};
use crate::network::{DEFAULT, GatewayMode, Network};
use crate::{Backend, Family, Namespace};

/// What a daemon would remember.
pub struct Docker {
    proxy: bool,
    backend: Backend,
    bridges: RefCell<Vec<Bridge>>,
    veths: RefCell<u32>,
    endpoints: RefCell<Vec<Endpoint>>,
    published: RefCell<Vec<Published>>,
}

struct Bridge {
    network: Network,
    ifname: String,
    /// Containers connected so far.
    made: u8,
}

struct Endpoint {
    container: String,
    network: String,
    addresses: Vec<IpAddr>,
    inside: PathBuf,
    exposed: Vec<String>,
    rules: Vec<(Family, Rule)>,
}

struct Published {
    container: String,
    spec: String,
    rules: Vec<(Family, Rule)>,
    _proxies: Vec<Proxy>,
}

impl Docker {
    /// The daemon starts; with `proxy`, with its user-land proxy.
    pub fn start(host: &Namespace, proxy: bool, backend: Backend) -> Self {
        Family::BOTH.iter().for_each(|family| iptables::set_up(host, backend, *family, proxy));
        host.set_sysctl("net/ipv4/ip_forward", "1");
        host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        Self {
            proxy,
            backend,
            bridges: RefCell::default(),
            veths: RefCell::default(),
            endpoints: RefCell::default(),
            published: RefCell::default(),
        }
    }

    pub fn create(&self, host: &Namespace, network: &Network) {
        let ifname = if network.name == DEFAULT { "docker0".to_owned() } else { format!("br-{}", network.name) };
        host.ip(&format!("link add {ifname} type bridge"));
        host.set_sysctl(&format!("net/ipv6/conf/{ifname}/accept_ra"), "0");
        // A router asks for neighbours under its link-local address, which would be tentative for a second.
        host.set_sysctl(&format!("net/ipv6/conf/{ifname}/accept_dad"), "0");
        for family in network.options.families() {
            if network.options.mode(*family) != GatewayMode::Isolated {
                let address = format!("{}/{}", network.gateway(*family), network.prefix_len(*family));
                host.ip(&format!("addr add {address} dev {ifname}{}", family.pick("", " nodad")));
            }
            if !self.proxy || !network.options.icc {
                let call = family.pick("bridge-nf-call-iptables", "bridge-nf-call-ip6tables");
                host.set_sysctl(&format!("net/bridge/{call}"), "1");
            }
            self.add(host, *family, &iptables::network(network, *family, &ifname, self.proxy));
        }
        if !self.proxy {
            host.set_sysctl(&format!("net/ipv4/conf/{ifname}/route_localnet"), "1");
        }
        host.ip(&format!("link set {ifname} up"));
        self.bridges.borrow_mut().push(Bridge { network: network.clone(), ifname, made: 0 });
    }

    /// Connects `inside` to `network` as its interface `eth{index}`; the first one has the default route.
    pub fn connect(&self, host: &Namespace, network: &str, container: &str, inside: &Namespace, index: u8) {
        let mut bridges = self.bridges.borrow_mut();
        let bridge = bridges.iter_mut().find(|b| b.network.name == network).expect("a network of that name");
        bridge.made += 1;
        *self.veths.borrow_mut() += 1;
        let (veth, eth) = (format!("veth{}", self.veths.borrow()), format!("eth{index}"));
        host.ip(&format!("link add {veth} type veth peer name {eth} netns {}", inside.path().display()));
        host.ip(&format!("link set {veth} master {}", bridge.ifname));
        let options = &bridge.network.options;
        if !options.ipv6 {
            inside.set_sysctl(&format!("net/ipv6/conf/{eth}/disable_ipv6"), "1");
        }
        inside.set_sysctl(&format!("net/ipv6/conf/{eth}/accept_dad"), "0");
        let (mut addresses, mut rules) = (Vec::new(), Vec::new());
        for family in options.families() {
            let address = bridge.network.address(*family, bridge.made + 1);
            let length = bridge.network.prefix_len(*family);
            inside.ip(&format!("addr add {address}/{length} dev {eth}{}", family.pick("", " nodad")));
            let added = iptables::endpoint(&bridge.network, *family, &bridge.ifname, address);
            self.add(host, *family, &added);
            rules.extend(added.into_iter().map(|rule| (*family, rule)));
            addresses.push(address);
        }
        if !self.proxy {
            host.ip(&format!("link set {veth} type bridge_slave hairpin on"));
        }
        host.ip(&format!("link set {veth} up"));
        inside.ip(&format!("link set {eth} up"));
        for family in options
            .families()
            .iter()
            .filter(|family| index == 0 && !options.internal && options.mode(**family) != GatewayMode::Isolated)
        {
            inside.ip(&format!("route add default via {}", bridge.network.gateway(*family)));
        }
        self.endpoints.borrow_mut().push(Endpoint {
            container: container.to_owned(),
            network: network.to_owned(),
            addresses,
            inside: inside.path().to_owned(),
            exposed: Vec::new(),
            rules,
        });
    }

    /// Takes `container` off `network`.
    pub fn disconnect(&self, host: &Namespace, network: &str, container: &str, inside: &Namespace) {
        let mut endpoints = self.endpoints.borrow_mut();
        let found = endpoints.iter().position(|e| e.container == container && e.network == network);
        let endpoint = endpoints.remove(found.expect("an endpoint of that container there"));
        assert_eq!(endpoint.inside, inside.path());
        self.delete(host, &endpoint.rules);
        for ifname in inside.interfaces() {
            let addresses = inside.ip(&format!("-o addr show dev {ifname}"));
            if endpoint.addresses.iter().any(|address| addresses.contains(&format!(" {address}/"))) {
                inside.ip(&format!("link del {ifname}"));
            }
        }
    }

    /// Publishes each `[HOST_ADDR:]HOST_PORT:PORT[/PROTO]` for `container`, as its first network has it. The rules
    /// come at once, in the order in which they would come one by one.
    pub fn publish(&self, host: &Namespace, container: &str, specs: &[&str]) {
        let (bridges, mut endpoints) = (self.bridges.borrow(), self.endpoints.borrow_mut());
        let endpoint = endpoints.iter_mut().find(|e| e.container == container).expect("a container of that name");
        let bridge = bridges.iter().find(|b| b.network.name == endpoint.network).expect("its network");
        let mut all = Vec::new();
        for spec in specs {
            let (mut rules, mut proxies) = (Vec::new(), Vec::new());
            for (family, port) in bindings(&endpoint.addresses, spec) {
                endpoint.exposed.push(format!("{}/{}", port.port, port.proto));
                let mode = bridge.network.options.mode(Family::of(port.address));
                if Family::of(port.address) == family {
                    let added = iptables::port(&bridge.network, &bridge.ifname, &port, self.proxy);
                    rules.extend(added.into_iter().map(|rule| (family, rule)));
                }
                if self.proxy && mode != GatewayMode::Routed && !bridge.network.options.internal {
                    proxies.push(docker_proxy::start(host, family, &port));
                }
            }
            all.extend(rules.iter().cloned());
            self.published.borrow_mut().push(Published {
                container: container.to_owned(),
                spec: (*spec).to_owned(),
                rules,
                _proxies: proxies,
            });
        }
        Family::BOTH.iter().for_each(|family| self.add(host, *family, &of_family(&all, *family)));
    }

    /// Takes back what [`Docker::publish`] did.
    pub fn unpublish(&self, host: &Namespace, container: &str, spec: &str) {
        let mut published = self.published.borrow_mut();
        let found = published.iter().position(|p| p.container == container && p.spec == spec);
        self.delete(host, &published.remove(found.expect("a published port")).rules);
    }

    /// Notes the PORT/PROTO that links to `container` open.
    pub fn expose(&self, container: &str, ports: &[&str]) {
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.iter_mut().find(|e| e.container == container).expect("a container of that name");
        endpoint.exposed.extend(ports.iter().map(|port| (*port).to_owned()));
    }

    /// Lets `parent` reach what `child` exposes: of IPv4 only, and only where containers may not talk anyhow.
    pub fn link(&self, host: &Namespace, parent: &str, child: &str) {
        let (bridges, endpoints) = (self.bridges.borrow(), self.endpoints.borrow());
        let find = |name: &str| endpoints.iter().find(|e| e.container == name).expect("a container of that name");
        let (parent, child) = (find(parent), find(child));
        let bridge = bridges.iter().find(|b| b.network.name == parent.network).expect("its network");
        for exposed in child.exposed.iter().filter(|_| !bridge.network.options.icc) {
            let (port, proto) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let port = port.parse().unwrap_or_else(|e| panic!("exposed port `{exposed}`: {e}"));
            let rules = iptables::link(&bridge.ifname, parent.addresses[0], child.addresses[0], port, proto);
            self.add(host, Family::V4, &rules);
        }
    }

    fn add(&self, host: &Namespace, family: Family, rules: &[Rule]) {
        iptables::add(host, self.backend, family, rules);
    }

    fn delete(&self, host: &Namespace, rules: &[(Family, Rule)]) {
        Family::BOTH
            .iter()
            .for_each(|family| iptables::delete(host, self.backend, *family, &of_family(rules, *family)));
    }
}

fn of_family(rules: &[(Family, Rule)], family: Family) -> Vec<Rule> {
    rules.iter().filter(|(of, _)| *of == family).map(|(_, rule)| rule.clone()).collect()
}

/// The bindings that `spec` means, with the family of the host's side. A port without an address is published at
/// 0.0.0.0 and at [::]; for a container without IPv6 the proxy carries the latter over to IPv4.
fn bindings(addresses: &[IpAddr], spec: &str) -> Vec<(Family, Port)> {
    let (ports, proto) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let (ports, port) = ports.rsplit_once(':').unwrap_or_else(|| panic!("`{spec}` has no container port"));
    let (host_addr, host_port) = match ports.rsplit_once(':') {
        Some((address, port)) => (Some(address.trim_matches(['[', ']'])), port),
        None => (None, ports),
    };
    let number = |text: &str| text.parse::<u16>().unwrap_or_else(|e| panic!("a port in `{spec}`: {e}"));
    let (host_port, port) = (number(host_port), number(port));
    let host_addr: Option<IpAddr> = host_addr.map(|text| text.parse().expect("a host address"));
    let families = host_addr.map_or(Family::BOTH.to_vec(), |address| vec![Family::of(address)]);
    let to_port = |family: Family| {
        let same = addresses.iter().find(|address| Family::of(**address) == family);
        let any = same.or(addresses.first().filter(|_| family == Family::V6));
        any.map(|address| (family, Port { host_addr, host_port, address: *address, port, proto: proto.to_owned() }))
    };
    families.into_iter().filter_map(to_port).collect()
}
