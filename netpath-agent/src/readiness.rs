//! Tells the service manager that has started this process that it is ready, as sd_notify(3) describes.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context, Result};

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Tells it; without one there is nobody to tell.
///
/// # Errors
/// If there is one and it does not hear.
pub(crate) fn tell() -> Result<()> {
    let Some(socket) = env::var_os(NOTIFY_SOCKET) else { return Ok(()) };
    send(&socket).with_context(|| {
        format!("tell the service manager at {NOTIFY_SOCKET}={} that the agent is ready", socket.display())
    })
}

/// What begins with `@` is a name in the abstract namespace, not a path.
fn send(socket: &OsStr) -> io::Result<()> {
    let name = socket.as_bytes();
    let addr = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_by_path_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("netpath-readiness-{}", std::process::id());
        let abstract_addr = SocketAddr::from_abstract_name(&name).unwrap();
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&abstract_addr).unwrap(), format!("@{name}")),
        ];
        for (manager, socket) in managers {
            send(OsStr::new(&socket)).unwrap();
            let mut said = [0; 64];
            let length = manager.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1", "{socket}");
        }
        assert!(send(path.as_os_str()).is_err(), "nobody listens there any more");
    }
}
