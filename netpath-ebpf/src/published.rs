//! Published ports: the way in, and what a container's port is called outside. A port stands in its map alone
//! or in a block of 256; nobody else looks into these maps.

use core::hint::cold_path;

use netpath_common::{Address, BLOCK_LEN, Endpoint, PortKey, PortSource, PortTarget, Reason, target_flag};

use crate::{
    env::Env,
    family::Family,
    fault::{self, Fault},
    packet::{Kind, Packet},
};

/// Where a published port leads.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub target: &'a PortTarget,
    /// Container port.
    pub port: u16,
}

/// What a container's port is called outside.
#[derive(Clone, Copy)]
pub struct Name<'a, A> {
    pub source: &'a PortSource<A>,
    /// Host port.
    pub port: u16,
}

/// Where `port` of the host's address `addr` leads, if it is published.
#[inline(always)]
pub fn find<'a, F: Family, E: Env<F>>(env: &'a E, addr: &F::Addr, port: u16, proto: u8) -> Option<Way<'a>> {
    if !env.is_port_published(proto, port) {
        return None;
    }
    find_by(|key| env.published_port(key), addr, port, proto)
}

/// The same in maps that `look_up` asks, for who knows that the port is published at some address.
#[inline(always)]
pub(crate) fn find_by<'a, A: Address>(
    look_up: impl Fn(&PortKey<A>) -> Option<&'a PortTarget>,
    addr: &A,
    port: u16,
    proto: u8,
) -> Option<Way<'a>> {
    let mut key = PortKey::new(*addr, port, proto);
    if let Some(target) = look_up(&key) {
        return Some(Way { target, port: target.port });
    }
    cold_path();
    key.widen();
    let target = look_up(&key)?;
    Some(Way { target, port: target.port.wrapping_add(port % BLOCK_LEN) })
}

/// What `port` of the container's address `addr` is called outside, if it is published.
#[inline(always)]
pub fn find_name<'a, F: Family, E: Env<F>>(
    env: &'a E,
    addr: &F::Addr,
    port: u16,
    proto: u8,
) -> Option<Name<'a, F::Addr>> {
    if fault::is_active::<F::Addr>(Fault::PublishedNameForgotten) {
        return None;
    }
    if !env.is_source_published(proto, port) {
        return None;
    }
    let mut key = PortKey::new(*addr, port, proto);
    if let Some(source) = env.published_source(&key) {
        return Some(Name { source, port: source.port });
    }
    cold_path();
    key.widen();
    let source = env.published_source(&key)?;
    Some(Name { source, port: source.port.wrapping_add(port % BLOCK_LEN) })
}

impl<'a> Way<'a> {
    /// The endpoint that the port leads to.
    ///
    /// # Errors
    ///
    /// [`Reason::EndpointGone`].
    #[inline(always)]
    pub fn endpoint<F: Family, E: Env<F>>(&self, env: &'a E) -> Result<&'a Endpoint, Reason> {
        env.endpoint(self.target.endpoint)
            .filter(|endpoint| endpoint.generation == self.target.generation)
            .ok_or(Reason::EndpointGone)
    }

    /// Whether the packet may use the port; false: it belongs to a connection that a socket of the host made
    /// from this port, and is the host's.
    ///
    /// # Errors
    ///
    /// [`Reason::SourceNotAllowed`].
    #[inline(always)]
    pub fn admits<F: Family, E: Env<F>>(&self, env: &E, packet: &Packet<F>) -> Result<bool, Reason> {
        let flags = self.target.flags;
        if flags & (target_flag::ALLOW_LIST | target_flag::EPHEMERAL) == 0 {
            return Ok(true);
        }
        cold_path();
        let opens = packet.kind == Kind::Tcp && packet.tcp.flags.is_opening();
        if flags & target_flag::EPHEMERAL != 0 && !opens && env.host_connection(&packet.tuple) {
            return Ok(false);
        }
        let is_listed = flags & target_flag::ALLOW_LIST != 0;
        if is_listed && !env.is_source_allowed(self.target.counter, &packet.tuple.src_addr) {
            return Err(Reason::SourceNotAllowed);
        }
        Ok(true)
    }
}
