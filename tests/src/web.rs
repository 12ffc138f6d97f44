//! A real web server and a real client for it.

use std::fs;
use std::path::Path;

use crate::{Namespace, program};

/// What the server answers at `/`.
pub const PAGE: &str = "served by nginx in a container\n";

/// Writes a configuration into `dir`, which nginx uses for nothing but this, and returns the command that serves
/// `port` with it in the foreground. `/` is [`PAGE`], `/client` the client's address as the server sees it, `/file` the
/// file `dir`/file.
pub fn nginx(dir: &Path, port: u16) -> Vec<String> {
    nginx_at(dir, &[port])
}

/// As [`nginx`], for one server at several ports.
pub fn nginx_at(dir: &Path, ports: &[u16]) -> Vec<String> {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    let listen: String = ports.iter().map(|port| format!("listen {port};")).collect();
    let config = CONFIG.replace("DIR", &dir.display().to_string()).replace("LISTEN", &listen);
    let path = dir.join("nginx.conf");
    fs::write(&path, config.replace("PAGE", PAGE.trim_end()))
        .unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    let log = dir.join("error.log");
    let args = ["nginx", "-c", &path.display().to_string(), "-e", &log.display().to_string()];
    args.map(str::to_owned).to_vec()
}

/// Fetches `url` from `namespace` with curl; the error is curl's own.
pub fn fetch(namespace: &Namespace, url: &str) -> Result<String, String> {
    let curl = ["--silent", "--show-error", "--fail", "--max-time", "2", url];
    let output = program::output_of(namespace.command("curl").args(curl));
    if output.status.success() { Ok(program::text(&output.stdout)) } else { Err(program::text(&output.stderr)) }
}

const CONFIG: &str = r#"daemon off;
user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log DIR/error.log warn;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    default_type text/plain;
    server {
        LISTEN
        location = / { return 200 "PAGE\n"; }
        location = /client { return 200 "$remote_addr"; }
        location = /file { root DIR; }
    }
}
"#;
