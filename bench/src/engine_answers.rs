//! A stand-in for Docker Engine that only answers: as many containers as are asked for, on `docker0`. What the Engine
//! itself takes for a thousand containers is not what is measured.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// An interface of a container that is there.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub mac: String,
    /// In 172.20.0.0/16.
    pub address: String,
    /// It publishes port 80 at this one.
    pub host_port: u16,
}

/// Answers at `socket`, from now on and as long as this process lives. All containers are in the namespace of process
/// `pid`.
pub(crate) fn serve(socket: &Path, pid: u32, containers: Vec<Known>) {
    let listener = UnixListener::bind(socket).unwrap_or_else(|e| panic!("listen at {}: {e}", socket.display()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let containers = containers.clone();
            thread::spawn(move || answer(stream, pid, &containers));
        }
    });
}

/// Requests of one connection, one after the other. None of them has a body.
fn answer(stream: UnixStream, pid: u32, containers: &[Known]) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        if path.contains("/events") {
            writer.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            // Nothing happens.
            thread::sleep(Duration::MAX);
        }
        let body = body(&path, pid, containers).to_string();
        let len = body.len();
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}")?;
    }
    Ok(())
}

fn body(path: &str, pid: u32, containers: &[Known]) -> Value {
    let path = path.split('?').next().unwrap_or(path);
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty() && !is_version(segment)).collect();
    match segments[..] {
        ["version"] => json!({"Version": "29.0.0", "ApiVersion": "1.52", "MinAPIVersion": "1.24"}),
        ["networks"] => json!([network(containers)]),
        ["networks", _] => network(containers),
        ["containers", "json"] => (0..).zip(containers).map(|(number, known)| summary(number, known)).collect(),
        ["containers", id, "json"] => json!({"Id": id, "State": {"Pid": pid, "Running": true, "Status": "running"},
            "Config": {"Hostname": "box", "ExposedPorts": {"80/tcp": {}}}, "HostConfig": {}}),
        _ => json!({"message": "this stand-in knows no such thing"}),
    }
}

/// `v1.52`, which comes first in a path.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix("v1.").is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
}

fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn network(containers: &[Known]) -> Value {
    let member = |(number, known): (usize, &Known)| {
        let address = format!("{}/16", known.address);
        (id(number), json!({"Name": format!("c{number}"), "MacAddress": known.mac, "IPv4Address": address}))
    };
    let members: Map<String, Value> = containers.iter().enumerate().map(member).collect();
    json!({"Name": "bridge", "Id": "b".repeat(64), "Driver": "bridge", "Scope": "local", "Internal": false,
        "EnableIPv6": false, "IPAM": {"Driver": "default", "Config": [{"Subnet": "172.20.0.0/16", "Gateway": "172.20.0.1"}]},
        "Options": {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": "docker0"},
        "Labels": {}, "Containers": members})
}

fn summary(number: usize, known: &Known) -> Value {
    let port = json!({"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": known.host_port, "Type": "tcp"});
    json!({"Id": id(number), "Names": [format!("/c{number}")], "State": "running", "Labels": {}, "Ports": [port]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_version_is_answered_as_one_without() {
        let known = Known { mac: "02:00:00:00:00:01".to_owned(), address: "172.20.0.2".to_owned(), host_port: 8000 };
        let containers = vec![known; 2];
        let ask = |path: &str| body(path, 7, &containers);
        assert_eq!(ask("/v1.52/containers/json?all=true"), ask("/containers/json"));
        assert_eq!(ask("/containers/json").as_array().unwrap().len(), 2);
        assert_eq!(ask(&format!("/v1.52/containers/{}/json", id(1)))["State"]["Pid"], 7);
        assert_eq!(ask("/v1.52/networks/bridge")["Containers"].as_object().unwrap().len(), 2);
    }
}
