//! Docker's user-land proxy: the program of Debian's package, as the daemon runs it.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::iptables::Port;
use crate::{Family, Namespace, program};

/// One running proxy, which ends when this is dropped.
pub struct Proxy {
    child: Child,
}

/// The program: `NETPATH_DOCKER_PROXY`, else where `cargo xtask setup` puts it, `tools` in cargo's target folder.
///
/// # Errors
/// What to do where there is none.
pub fn binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("NETPATH_DOCKER_PROXY") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().expect("the path of this program");
    let places = this.ancestors().skip(1).take(4).map(|dir| dir.join("tools/docker-proxy"));
    places
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| "there is no docker-proxy here: run `cargo xtask setup`, or set NETPATH_DOCKER_PROXY".to_owned())
}

/// Runs a proxy for `port` on the host's side of `family`, and waits until it listens.
pub fn start(host: &Namespace, family: Family, port: &Port) -> Proxy {
    let binary = binary().unwrap_or_else(|why| panic!("{why}"));
    let host_addr = port.host_addr.unwrap_or(family.any());
    let numbers = [port.host_port, port.port].map(|port| port.to_string());
    // The proxy reports to descriptor 3: `0` when it listens.
    let mut command: Command = host.command("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 3>&1"]).arg(binary);
    command.args(["-proto", &port.proto, "-host-ip", &host_addr.to_string(), "-host-port", &numbers[0]]);
    command.args(["-container-ip", &port.address.to_string(), "-container-port", &numbers[1]]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    let mut report = [0; 1];
    let told = child.stdout.as_mut().expect("stdout is piped").read(&mut report);
    let proxy = Proxy { child };
    assert!(told.is_ok() && report == *b"0", "{command:?} says {:?}", program::text(&report));
    proxy
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
