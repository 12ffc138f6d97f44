//! What Docker Engine can be without being of use, and what netpath says of it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::agent::START;
use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::sockets::eventually;
use netpath_tests::{Plane, World};

use crate::docker_mode::{options, served, world};

on_docker! {
    a_daemon_with_a_proxy_is_left_alone,
    a_network_with_a_label_that_means_nothing_is_left_alone,
}

on_newest_docker! {
    a_daemon_that_translates_ipv6_is_left_alone,
}

on_netpath_once! {
    an_engine_that_is_too_old_is_named,
    a_socket_where_nobody_listens_is_named,
    a_socket_that_may_not_be_used_is_named,
    a_daemon_that_somebody_has_stopped_stays_stopped,
}

fn a_daemon_with_a_proxy_is_left_alone(release: Release) {
    is_left_alone(release, &["--iptables=false", "--ip6tables=false"], "--userland-proxy=false");
}

/// Older ones translate IPv6 only by way of an experiment, and not without translating IPv4.
fn a_daemon_that_translates_ipv6_is_left_alone(release: Release) {
    is_left_alone(release, &["--iptables=false", "--userland-proxy=false"], "--ip6tables=false");
}

fn is_left_alone(release: Release, options: &[&str], missing: &str) {
    let world = world();
    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, options);
    engine.start_container("web", &["-p", "8080:80"]);
    says(&world, &format!("start dockerd with {missing}, and remove"));
    assert!(world.endpoint("web").is_none());
    assert_eq!(log(&world).matches("start dockerd with").count(), 1, "it is said once: {}", log(&world));
}

fn a_network_with_a_label_that_means_nothing_is_left_alone(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.docker(&["network", "create", "--label", "netpath.icc=perhaps", "odd"]);
    engine.start_container("odd-one", &["--network", "odd"]);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    says(&world, "`docker/odd` of Docker's is not served as it should be: netpath.icc: `perhaps` is not true or false");
    assert!(world.endpoint("odd-one").is_none());
    let networks = world.json(&["network", "ls"]);
    assert!(networks.as_array().unwrap().iter().all(|network| network["name"] != "docker/odd"), "{networks}");
}

fn an_engine_that_is_too_old_is_named(plane: Plane) {
    let world = World::with(plane, options());
    let listener = UnixListener::bind(socket(&world)).unwrap();
    let answering = thread::spawn(move || answer_as_docker_1_12(&listener));
    says(&world, "has API 1.24, want 1.25 or newer (Docker 1.13)");
    answering.join().unwrap();
}

/// Answers until somebody has asked for the version.
fn answer_as_docker_1_12(listener: &UnixListener) {
    for stream in listener.incoming() {
        let (mut stream, mut request) = (stream.unwrap(), Vec::new());
        let mut buffer = [0; 4096];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            request.extend(&buffer[..length]);
        }
        let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
        let is_version = path == "/version" || path == "/v1.24/version";
        let (status, body) = match is_version {
            true => ("200 OK", r#"{"Version":"1.12.6","ApiVersion":"1.24","Os":"linux","Arch":"amd64"}"#),
            false => ("400 Bad Request", r#"{"message":"client is newer than server (server API version: 1.24)"}"#),
        };
        let head = "content-type: application/json\r\nconnection: close\r\ncontent-length:";
        // Whoever looks only whether somebody listens is gone by now.
        let _ = write!(stream, "HTTP/1.1 {status}\r\n{head} {}\r\n\r\n{body}", body.len());
        if is_version {
            return;
        }
    }
}

fn a_socket_where_nobody_listens_is_named(plane: Plane) {
    let world = World::with(plane, options());
    let socket = socket(&world);
    says(&world, &format!("connect to Docker Engine at {}: No such file or directory", socket.display()));
    drop(UnixListener::bind(&socket).unwrap());
    says(&world, &format!("connect to Docker Engine at {}: Connection refused", socket.display()));
}

fn a_socket_that_may_not_be_used_is_named(plane: Plane) {
    let world = World::with(plane, options());
    world.kill_agent();
    let socket = socket(&world);
    let _listener = UnixListener::bind(&socket).unwrap();
    Command::new("chown").arg("nobody").arg(&socket).status().unwrap();
    let agent = world.instance().agent_command(&world.host);
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(agent.get_program()).args(agent.get_args());
    command.arg(format!("--docker={}", socket.display()));
    let errors = fs::File::options().append(true).open(&world.instance().log).unwrap();
    let mut agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
    says(&world, &format!("connect to Docker Engine at {}: Permission denied", socket.display()));
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// systemd listens for a dockerd that does not run, and starts it for whoever connects.
fn a_daemon_that_somebody_has_stopped_stays_stopped(plane: Plane) {
    let world = World::with(plane, options());
    world.kill_agent();
    let path = socket(&world);
    let listener = world.host.within(|| UnixListener::bind(path)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listening(&world, "systemd", &listener);
    world.start_agent();
    says(&world, "dockerd is stopped");
    assert!(listener.accept().is_err(), "somebody has connected: {}", log(&world));
    listening(&world, "dockerd", &listener);
    eventually("the agent connects", || listener.accept().is_ok());
}

/// Starts a process called `name` that has the socket open.
fn listening(world: &World, name: &str, listener: &UnixListener) {
    let program = world.dir().join(name);
    fs::copy("/bin/sleep", &program).unwrap();
    let socket = OwnedFd::from(listener.try_clone().unwrap());
    world.spawn(Command::new(program).arg("600").stdin(socket));
}

/// Where the agent of this world looks for the Engine.
fn socket(world: &World) -> PathBuf {
    let dir = world.dir().join("docker");
    fs::create_dir_all(&dir).unwrap();
    dir.join("sock")
}

/// An agent that has been waiting for the Engine looks every 10 s, and starts slowly on a busy machine.
fn says(world: &World, text: &str) {
    let deadline = Instant::now() + START;
    while !log(world).contains(text) {
        assert!(Instant::now() < deadline, "the log does not say `{text}`: {}", log(world));
        thread::sleep(Duration::from_millis(20));
    }
}

fn log(world: &World) -> String {
    world.instance().log_text()
}
