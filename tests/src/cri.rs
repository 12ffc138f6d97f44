//! containerd's CRI, called as a kubelet calls it, by a client made from Kubernetes' own definition: pods whose list of plugins
//! is netpath's alone, and Debian's `bridge` before it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, ImageStatusRequest, LinuxPodSandboxConfig,
    ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, PodSandboxStatusRequest, PortMapping,
    Protocol, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest,
    StopPodSandboxRequest,
};
use netpath_tests::containerd_daemon::{ContainerdDaemon, IMAGE, PAGE, Release};
use netpath_tests::sockets::{accept, ask, at, converse, eventually};
use netpath_tests::{CLIENT, Family, HOST, Namespace, Options, World, web};
use serde_json::{Value, json};

use crate::containerd::PLANE;

on_containerd! {
    a_pod_is_served_and_reaches_out,
    a_pod_behind_debians_bridge_is_served_and_reaches_out,
    a_stopped_pod_frees_port_and_address,
    a_stopped_pod_behind_debians_bridge_frees_port_and_address,
    a_second_pod_with_the_same_host_port_is_refused,
    a_second_pod_with_the_same_host_port_behind_debians_bridge_is_refused,
    pods_share_a_port_at_different_host_addresses,
    a_pod_has_both_families,
    a_pod_outlives_containerd,
    a_pod_is_stopped_while_there_is_no_agent,
    the_runtime_says_whether_its_network_is_ready,
}

fn a_pod_is_served_and_reaches_out(release: Release) {
    let world = World::new(PLANE);
    serves_and_reaches_out(&world, &Cri::start(&world, release, &alone(release, "10.88.0.0/16")));
}

fn a_pod_behind_debians_bridge_is_served_and_reaches_out(release: Release) {
    let world = World::new(PLANE);
    serves_and_reaches_out(&world, &Cri::start(&world, release, &behind_bridge("10.244.1.0/24")));
}

fn serves_and_reaches_out(world: &World, cri: &Cri<'_>) {
    let pod = cri.run("web", &[tcp(8080, 80), udp(5353, 53)]).unwrap();
    cri.serve_http(&pod);
    eventually("the page is served", || fetch(world, HOST, 8080).as_deref() == Ok(PAGE));
    let inside = cri.inside(&pod);
    assert_eq!((cri.ips(&pod), inside.interfaces()), (inside.addresses(), vec!["eth0".to_owned()]));
    let (asker, server) = (world.client.udp(0), inside.udp(53));
    assert_eq!(ask(&asker, &server, at(HOST, 5353)).ip(), CLIENT, "whom the pod sees");
    let outside = world.client.listen(7000);
    let mut client = inside.connect(at(CLIENT, 7000));
    let (mut server, from) = accept(&outside);
    assert_eq!(from.ip(), HOST, "masqueraded");
    converse(&mut client, &mut server);
    // A neighbour reaches it by the host's port too.
    let neighbour = cri.run("neighbour", &[]).unwrap();
    let page = web::fetch(&cri.inside(&neighbour), &format!("http://{HOST}:8080/"));
    assert_eq!(page.as_deref(), Ok(PAGE));
    for pod in [&pod, &neighbour] {
        cri.stop(pod);
        cri.remove(pod);
    }
    assert_eq!((cri.pods(), world.json(&["ps"])), (vec![], json!([])));
}

fn a_stopped_pod_frees_port_and_address(release: Release) {
    let world = World::new(PLANE);
    frees_port_and_address(&world, &Cri::start(&world, release, &alone(release, "10.88.0.0/30")));
}

fn a_stopped_pod_behind_debians_bridge_frees_port_and_address(release: Release) {
    let world = World::new(PLANE);
    frees_port_and_address(&world, &Cri::start(&world, release, &behind_bridge("10.244.1.0/30")));
}

/// The subnet has one address for pods.
fn frees_port_and_address(world: &World, cri: &Cri<'_>) {
    let mut before = None;
    for name in ["one", "two", "three"] {
        let pod = cri.run(name, &[tcp(8080, 80)]).unwrap();
        let address = cri.ips(&pod);
        assert_eq!((address.len(), before.replace(address.clone()).unwrap_or(address.clone())), (1, address));
        talk(world, &cri.inside(&pod), HOST, 8080);
        let left = world.host.interfaces().len();
        cri.stop(&pod);
        world.client.assert_closed(at(HOST, 8080));
        assert_eq!((world.json(&["ps"]), world.host.interfaces().len()), (json!([]), left - 1));
        // It is stopped as often as a kubelet likes.
        cri.stop(&pod);
        cri.remove(&pod);
    }
}

fn a_second_pod_with_the_same_host_port_is_refused(release: Release) {
    let world = World::new(PLANE);
    refuses_a_taken_port(&world, &Cri::start(&world, release, &alone(release, "10.88.0.0/16")));
}

fn a_second_pod_with_the_same_host_port_behind_debians_bridge_is_refused(release: Release) {
    let world = World::new(PLANE);
    refuses_a_taken_port(&world, &Cri::start(&world, release, &behind_bridge("10.244.1.0/24")));
}

fn refuses_a_taken_port(world: &World, cri: &Cri<'_>) {
    let first = cri.run("first", &[tcp(8080, 80)]).unwrap();
    let inside = cri.inside(&first);
    let seen = || {
        let leases = fs::read_dir(world.dir().join("containerd/mounts/var/lib/cni/networks/pods"));
        let leases = leases.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let leases = leases.filter(|name| name.to_string_lossy().starts_with("10.")).count();
        (world.json(&["ps"]), world.host.interfaces(), cri.pods(), cri.namespaces(), leases)
    };
    let before = seen();
    for _ in 0..2 {
        let error = cri.run("second", &[tcp(8081, 80), tcp(8080, 80)]).unwrap_err();
        assert!(error.contains("netpath-cni") && error.contains("8080"), "{error}");
        assert_eq!(seen(), before);
        world.client.assert_closed(at(HOST, 8081));
    }
    talk(world, &inside, HOST, 8080);
    cri.stop(&first);
    let second = cri.run("second", &[tcp(8080, 80)]).unwrap();
    talk(world, &cri.inside(&second), HOST, 8080);
}

fn pods_share_a_port_at_different_host_addresses(release: Release) {
    let world = World::new(PLANE);
    let cri = Cri::start(&world, release, &alone(release, "10.88.0.0/16"));
    let at_address = |address: IpAddr| PortMapping { host_ip: address.to_string(), ..tcp(8080, 80) };
    let outer = cri.run("outer", &[at_address(HOST)]).unwrap();
    let inner = cri.run("inner", &[at_address(Family::V4.loopback())]).unwrap();
    talk(&world, &cri.inside(&outer), HOST, 8080);
    let listener = cri.inside(&inner).listen(80);
    let mut client = world.host.connect(at(Family::V4.loopback(), 8080));
    converse(&mut client, &mut accept(&listener).0);
    cri.stop(&outer);
    world.client.assert_closed(at(HOST, 8080));
    let mut client = world.host.connect(at(Family::V4.loopback(), 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_pod_has_both_families(release: Release) {
    let world = World::with(PLANE, Options { ipv6: true, ..Options::default() });
    let mut list = alone(release, "10.88.0.0/16");
    list.plugins[0] = json!({"type": "netpath-cni", "subnets": ["10.88.0.0/16", "fd00:88::/64"],
                             "capabilities": {"portMappings": true}});
    let cri = Cri::start(&world, release, &list);
    let pod = cri.run("web", &[tcp(8080, 80)]).unwrap();
    let inside = cri.inside(&pod);
    assert_eq!(cri.ips(&pod), ["10.88.0.2".parse::<IpAddr>().unwrap(), "fd00:88::2".parse().unwrap()]);
    for family in Family::BOTH {
        talk(&world, &inside, family.host(), 8080);
        let outside = world.client.listen_at(at(family.any(), 7000));
        let mut client = inside.connect(at(family.client(), 7000));
        let (mut server, from) = accept(&outside);
        assert_eq!(from.ip(), family.host());
        converse(&mut client, &mut server);
    }
}

fn a_pod_outlives_containerd(release: Release) {
    let world = World::new(PLANE);
    let cri = Cri::start(&world, release, &alone(release, "10.88.0.0/30"));
    let pod = cri.run("web", &[tcp(8080, 80)]).unwrap();
    cri.serve_http(&pod);
    eventually("the page is served", || fetch(&world, HOST, 8080).as_deref() == Ok(PAGE));
    cri.containerd.kill();
    assert_eq!(fetch(&world, HOST, 8080).as_deref(), Ok(PAGE));
    cri.containerd.start_again();
    cri.wait_until_it_answers();
    assert_eq!(fetch(&world, HOST, 8080).as_deref(), Ok(PAGE));
    assert_eq!(cri.pods(), [(pod.clone(), PodSandboxState::SandboxReady)]);
    let address = cri.ips(&pod);
    cri.stop(&pod);
    world.client.assert_closed(at(HOST, 8080));
    assert_eq!(world.json(&["ps"]), json!([]));
    cri.remove(&pod);
    let next = cri.run("next", &[tcp(8080, 80)]).unwrap();
    assert_eq!(cri.ips(&next), address);
    talk(&world, &cri.inside(&next), HOST, 8080);
}

fn a_pod_is_stopped_while_there_is_no_agent(release: Release) {
    let world = World::new(PLANE);
    let cri = Cri::start(&world, release, &alone(release, "10.88.0.0/30"));
    let pod = cri.run("web", &[tcp(8080, 80)]).unwrap();
    let address = cri.ips(&pod);
    world.kill_agent();
    cri.stop(&pod);
    let error = cri.run("early", &[tcp(8080, 80)]).unwrap_err();
    assert!(error.contains("netpath-cni") && error.contains(&world.instance().socket.display().to_string()), "{error}");
    assert!(cri.namespaces().is_empty(), "{:?}", cri.namespaces());
    world.start_agent();
    assert_eq!(world.json(&["ps"]), json!([]));
    let pod = cri.run("late", &[tcp(8080, 80)]).unwrap();
    assert_eq!(cri.ips(&pod), address);
    talk(&world, &cri.inside(&pod), HOST, 8080);
}

fn the_runtime_says_whether_its_network_is_ready(release: Release) {
    let world = World::new(PLANE);
    let list = alone(release, "10.88.0.0/30");
    let cri = Cri::start(&world, release, &list);
    assert_eq!(cri.network(), Ok(()));
    fs::remove_file(cri.containerd.list()).unwrap();
    eventually("without a list there is no network", || cri.network().is_err());
    cri.containerd.configure(list.version, "pods", &list.plugins);
    eventually("with a list there is one", || cri.network().is_ok());
    let pod = cri.run("last", &[]).unwrap();
    if release == Release::Own {
        assert_eq!(cri.network(), Ok(()), "it asks no plugin");
        world.kill_agent();
        assert_eq!(cri.network(), Ok(()), "it asks no plugin");
        return;
    }
    // It asks the plugin (STATUS), since the list has version 1.1.0.
    let why = cri.network().unwrap_err();
    assert!(why.contains("network `pods` has no free address"), "{why}");
    cri.stop(&pod);
    assert_eq!(cri.network(), Ok(()));
    world.kill_agent();
    let why = cri.network().unwrap_err();
    assert!(why.contains(&world.instance().socket.display().to_string()), "{why}");
    world.start_agent();
    assert_eq!(cri.network(), Ok(()));
}

/// A list of plugins for pods.
struct List {
    version: &'static str,
    plugins: Vec<Value>,
}

/// netpath's plugin alone, in the newest version of the specification that the runtime knows.
fn alone(release: Release, subnet: &str) -> List {
    let version = if release == Release::Newest { "1.1.0" } else { "1.0.0" };
    let plugin = json!({"type": "netpath-cni", "subnet": subnet, "capabilities": {"portMappings": true}});
    List { version, plugins: vec![plugin] }
}

/// As docs/cni.md has it for Kubernetes.
fn behind_bridge(subnet: &str) -> List {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
    let own = json!({"type": "netpath-cni", "ipMasq": true, "capabilities": {"portMappings": true}});
    List { version: "1.0.0", plugins: vec![bridge, own] }
}

/// A kubelet, as far as it concerns pods.
struct Cri<'a> {
    containerd: ContainerdDaemon<'a>,
    tokio: tokio::runtime::Runtime,
}

/// Calls one method, on a connection of its own: the daemon may be another one than before.
macro_rules! call {
    ($cri:expr, $method:ident, $request:expr) => {
        call!($cri, RuntimeServiceClient, $method, $request)
    };
    ($cri:expr, $service:ident, $method:ident, $request:expr) => {{
        let address = format!("unix://{}", $cri.containerd.socket().display());
        $cri.tokio.block_on(async {
            let mut client = $service::connect(address).await.map_err(|error| error.to_string())?;
            let answer = client.$method($request).await;
            answer.map(|answer| answer.into_inner()).map_err(|status| status.message().to_owned())
        })
    }};
}

impl<'a> Cri<'a> {
    fn start(world: &'a World, release: Release, list: &List) -> Self {
        let containerd = ContainerdDaemon::start(world, release, list.version, "pods", &list.plugins);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cri = Self { containerd, tokio };
        cri.wait_until_it_answers();
        cri.containerd.wait("it has a network", || cri.network().is_ok());
        cri
    }

    /// And knows the image.
    fn wait_until_it_answers(&self) {
        let image = ImageSpec { image: IMAGE.to_owned(), ..Default::default() };
        self.containerd.wait("its CRI knows the image", || {
            let request = ImageStatusRequest { image: Some(image.clone()), verbose: false };
            call!(self, ImageServiceClient, image_status, request).is_ok_and(|answer| answer.image.is_some())
        });
    }

    /// Whether the network is ready, or why not.
    fn network(&self) -> Result<(), String> {
        let status = call!(self, status, StatusRequest { verbose: false })?.status.unwrap_or_default();
        let condition = status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady");
        let condition = condition.ok_or("no word about the network")?;
        if condition.status { Ok(()) } else { Err(format!("{}: {}", condition.reason, condition.message)) }
    }

    /// RunPodSandbox; the pod's identifier.
    fn run(&self, name: &str, ports: &[PortMapping]) -> Result<String, String> {
        let request = RunPodSandboxRequest { config: Some(self.config(name, ports)), ..Default::default() };
        call!(self, run_pod_sandbox, request).map(|answer| answer.pod_sandbox_id)
    }

    /// CreateContainer and StartContainer, of a web server at port 80.
    fn serve_http(&self, pod: &str) {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "http".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"].map(str::to_owned).to_vec(),
            log_path: "http.log".to_owned(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.config("web", &[])),
        };
        let container_id = call!(self, create_container, request).unwrap().container_id;
        call!(self, start_container, StartContainerRequest { container_id }).unwrap();
    }

    fn stop(&self, pod: &str) {
        call!(self, stop_pod_sandbox, StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() }).unwrap();
    }

    fn remove(&self, pod: &str) {
        call!(self, remove_pod_sandbox, RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() }).unwrap();
    }

    /// All pods that the runtime knows.
    fn pods(&self) -> Vec<(String, PodSandboxState)> {
        let pods = call!(self, list_pod_sandbox, ListPodSandboxRequest { filter: None }).unwrap().items;
        pods.into_iter().map(|pod| (pod.id.clone(), pod.state())).collect()
    }

    /// The addresses that the runtime tells the kubelet.
    fn ips(&self, pod: &str) -> Vec<IpAddr> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        let network = call!(self, pod_sandbox_status, request).unwrap().status.unwrap().network.unwrap();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        std::iter::once(network.ip).chain(more).map(|ip| ip.parse().unwrap()).collect()
    }

    /// The pod's network namespace.
    fn inside(&self, pod: &str) -> Namespace {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
        let info = call!(self, pod_sandbox_status, request).unwrap().info;
        let info: Value = serde_json::from_str(&info["info"]).unwrap();
        Namespace::of_process(info["pid"].as_u64().unwrap_or_else(|| panic!("no process: {info}")) as u32)
    }

    /// The network namespaces of pods.
    fn namespaces(&self) -> Vec<PathBuf> {
        let state = self.containerd.state().join("io.containerd.grpc.v1.cri/netns");
        fs::read_dir(&state).unwrap_or_else(|e| panic!("{}: {e}", state.display())).map(|e| e.unwrap().path()).collect()
    }

    fn config(&self, name: &str, ports: &[PortMapping]) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let linux = LinuxPodSandboxConfig { cgroup_parent: format!("/{}", self.containerd.name), ..Default::default() };
        PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: self.containerd.dir_of(name).display().to_string(),
            port_mappings: ports.to_vec(),
            linux: Some(linux),
            ..Default::default()
        }
    }
}

fn tcp(host_port: i32, container_port: i32) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp.into(), container_port, host_port, host_ip: String::new() }
}

fn udp(host_port: i32, container_port: i32) -> PortMapping {
    PortMapping { protocol: Protocol::Udp.into(), ..tcp(host_port, container_port) }
}

fn fetch(world: &World, host: IpAddr, port: u16) -> Result<String, String> {
    web::fetch(&world.client, &format!("http://{}/", at(host, port)))
}

/// The client reaches port 80 inside by the host's port, and is seen as who it is.
fn talk(world: &World, inside: &Namespace, host: IpAddr, port: u16) {
    let listener = inside.listen_at(at(Family::of(host).any(), 80));
    let mut client = world.client.connect(at(host, port));
    let (mut server, from) = accept(&listener);
    assert_eq!(from, client.local_addr().unwrap());
    converse(&mut client, &mut server);
}
