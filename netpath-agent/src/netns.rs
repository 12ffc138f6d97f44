//! Network namespaces of others: opening them and working inside. A thread that has entered one never
//! comes back; it ends.

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use serde::{Deserialize, Serialize};

use crate::agent::read_interfaces;
use crate::api::Netns as NetnsName;
use crate::ethtool::Ethtool;
use crate::externals::Interfaces;
use crate::host;
use crate::netlink::{Link, Netlink, Veth};
use crate::state::Container;

// linux/magic.h: NSFS_MAGIC.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairEnd {
    pub interface: String,
    pub mac: [u8; 6],
}

/// Tells a namespace from others as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetnsId {
    pub dev: u64,
    pub inode: u64,
}

/// A network namespace, kept alive as long as this value lives.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace that `name` stands for.
    ///
    /// # Errors
    /// If there is no such process or file, it is no network namespace, or it is the agent's own.
    pub fn open(name: &NetnsName) -> Result<Self> {
        let path = match name {
            NetnsName::Pid(pid) => {
                let process = PathBuf::from(format!("/proc/{pid}"));
                ensure!(*pid != 0 && process.exists(), "no process has pid {pid}");
                process.join("ns/net")
            }
            NetnsName::Path(path) => path.clone(),
        };
        let context = || format!("open network namespace {}", path.display());
        // To open a file may mean something to it, and to wait for somebody; a place in the file system is neither.
        let place = File::options().read(true).custom_flags(nix::libc::O_PATH).open(&path).with_context(context)?;
        let stat = fstatfs(&place).with_context(|| format!("look up the file system of {}", path.display()))?;
        ensure!(
            stat.filesystem_type() == NSFS_MAGIC,
            "{} is no namespace (if it was one, it has been unmounted)",
            path.display()
        );
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).with_context(context)?;
        let netns = Self { file, path };
        netns.check()?;
        Ok(netns)
    }

    /// Tells it from others.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn id(&self) -> Result<NetnsId> {
        let data = self.file.metadata().with_context(|| format!("read {}", self.path.display()))?;
        Ok(NetnsId { dev: data.dev(), inode: data.ino() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn check(&self) -> Result<()> {
        let shown = self.path.display();
        ensure!(
            self.kind()? == nix::libc::CLONE_NEWNET,
            "{shown} is a namespace of another kind, want a network namespace"
        );
        let own = std::fs::metadata("/proc/thread-self/ns/net").context("read /proc/thread-self/ns/net")?;
        if (NetnsId { dev: own.dev(), inode: own.ino() }) == self.id()? {
            bail!("{shown} is the host's own network namespace, want a container's");
        }
        Ok(())
    }

    /// The kind of namespace, as the flag that makes one of it.
    fn kind(&self) -> Result<i32> {
        // SAFETY: the descriptor is open, and the request takes no argument.
        let kind = unsafe { nix::libc::ioctl(self.file.as_raw_fd(), nix::libc::NS_GET_NSTYPE) };
        Errno::result(kind).with_context(|| format!("ask for the kind of namespace {}", self.path.display()))
    }

    /// Sets `lo` up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_up_loopback(&self) -> Result<()> {
        let shown = self.path.display().to_string();
        self.run(|| async { set_up_loopback(&Netlink::connect()?).await })
            .await
            .with_context(|| format!("configure lo in {shown}"))
    }

    /// Gives the container's end of a veth pair its addresses and sets it up, and `lo` too; then default routes lead to
    /// `gateways`.
    ///
    /// # Errors
    /// If the kernel refuses any of it.
    pub async fn configure(&self, interface: &str, addrs: Vec<IpNet>, gateways: Vec<IpAddr>) -> Result<()> {
        let name = interface.to_owned();
        self.run(move || async move {
            let netlink = Netlink::connect()?;
            set_up_loopback(&netlink).await?;
            let link = netlink.link(&name).await?.context("the veth's end is gone")?;
            if addrs.iter().any(|net| net.addr().is_ipv6()) {
                host::enable_ipv6(&name)?;
            } else {
                host::disable_ipv6(&name)?;
            }
            for net in addrs {
                netlink.add_address(link.ifindex, net).await?;
            }
            netlink.set_up(link.ifindex).await?;
            for gateway in gateways {
                netlink.add_default_route(gateway).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("configure {interface} in {}", self.path.display()))
    }

    /// Lets a veth inside take frames that XDP redirects.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn turn_gro_on(&self, interface: &str) -> Result<()> {
        let name = interface.to_owned();
        self.run(|| async move { Ethtool::open()?.turn_gro_on(&name) })
            .await
            .with_context(|| format!("configure {interface} in {}", self.path.display()))
    }

    /// Replaces the default routes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_default_routes(&self, old: Vec<IpAddr>, new: Vec<IpAddr>) -> Result<()> {
        self.run(move || async move {
            let netlink = Netlink::connect()?;
            for gateway in old {
                netlink.delete_default_route(gateway).await?;
            }
            for gateway in new {
                netlink.add_default_route(gateway).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("set the default routes in {}", self.path.display()))
    }

    /// Interfaces, addresses and routes inside.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub async fn look(&self) -> Result<Interfaces> {
        let look = self.run(|| async { read_interfaces(&Netlink::connect()?).await }).await;
        look.with_context(|| format!("look into {}", self.path.display()))
    }

    /// Adds routes, each with its gateway.
    ///
    /// # Errors
    /// If the kernel refuses one; those before it stay.
    pub async fn add_routes(&self, routes: Vec<(IpNet, IpAddr)>) -> Result<()> {
        self.run(move || async move {
            let netlink = Netlink::connect()?;
            for (net, gateway) in routes {
                netlink.add_route_via(net, gateway).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("set routes in {}", self.path.display()))
    }

    /// The interfaces inside.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let links = self.run(|| async { Netlink::connect()?.links().await }).await;
        links.with_context(|| format!("look into {}", self.path.display()))
    }

    /// Names of the interfaces inside.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub async fn interfaces(&self) -> Result<Vec<String>> {
        Ok(self.links().await?.into_iter().map(|link| link.ifname).collect())
    }

    /// Creates a veth pair with one end inside and the other one in the namespace `other`, both down.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because a name is taken.
    pub async fn create_pair(&self, end: PairEnd, other: &Self, other_end: PairEnd, mtu: u32) -> Result<()> {
        let other = other.file.try_clone().context("duplicate the namespace's descriptor")?;
        self.run(move || async move {
            let veth = Veth {
                ifname: &end.interface,
                mtu,
                mac: end.mac,
                group: 0,
                peer_ifname: &other_end.interface,
                peer_mac: other_end.mac,
                peer_netns: other.as_fd(),
            };
            Netlink::connect()?.create_veth(&veth).await
        })
        .await
    }

    /// Gives an end of a point-to-point link its addresses, sets it up, and routes `peers` to it.
    ///
    /// # Errors
    /// If the kernel refuses any of it.
    pub async fn configure_ptp(&self, interface: &str, addrs: Vec<IpAddr>, peers: Vec<IpAddr>) -> Result<()> {
        let nets: Vec<IpNet> = addrs.into_iter().map(IpNet::from).collect();
        self.configure(interface, nets, Vec::new()).await?;
        let name = interface.to_owned();
        self.run(move || async move {
            let netlink = Netlink::connect()?;
            let link = netlink.link(&name).await?.context("the interface is gone")?;
            for peer in peers {
                netlink.add_route(IpNet::from(peer), link.ifindex).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("set routes in {}", self.path.display()))
    }

    /// Deletes the interface if it has this hardware address; no error if there is none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_link(&self, end: PairEnd) -> Result<()> {
        self.run(move || async move {
            let netlink = Netlink::connect()?;
            match netlink.link(&end.interface).await? {
                Some(link) if link.mac == end.mac => netlink.delete_link(link.ifindex).await,
                _ => Ok(()),
            }
        })
        .await
        .with_context(|| format!("delete an interface in {}", self.path.display()))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    async fn run<T, F, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
        W: FnOnce() -> F + Send + 'static,
    {
        let file = self.file.try_clone().context("duplicate the namespace's descriptor")?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let spawned = thread::Builder::new().name("netns".to_owned()).spawn(move || {
            let _ = sender.send(enter_and_run(&file, work));
        });
        spawned.context("start a thread")?;
        receiver.await.context("the thread inside the namespace panicked")?
    }
}

impl Container {
    /// Opens the container's namespace.
    ///
    /// # Errors
    /// As [`Netns::open`], and if its name has become that of another one: a process's id or a path is used again.
    pub(crate) fn open_netns(&self) -> Result<Netns> {
        let netns = Netns::open(&self.netns)?;
        let is_same = self.netns_id.is_none_or(|id| netns.id().is_ok_and(|other| other == id));
        ensure!(is_same, "{} is another namespace than when the container was connected", netns.path.display());
        Ok(netns)
    }
}

async fn set_up_loopback(netlink: &Netlink) -> Result<()> {
    let lo = netlink.link("lo").await?.context("no interface lo")?;
    netlink.set_up(lo.ifindex).await
}

fn enter_and_run<T, F: Future<Output = Result<T>>>(file: &File, work: impl FnOnce() -> F) -> Result<T> {
    setns(file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(work())
}
