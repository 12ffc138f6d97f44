//! A TCP connection segment by segment, as the container and the server send it.

use std::net::SocketAddr;

use netpath_tests::packets::{ACK, FIN, Packet, SYN, Segment};

use super::record::Met;
use super::testbed::{Station, Testbed};

/// A connection from a container to the server. Sequence numbers are those that come next.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) station: Station,
    pub(crate) inside: SocketAddr,
    /// The name that the server sees.
    pub(crate) outside: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Of the container.
    pub(crate) seq: u32,
    /// Of the server.
    pub(crate) ack: u32,
}

impl Connection {
    /// A SYN has left.
    pub(crate) fn begin(bed: &mut Testbed, station: Station, port: u16, remote: SocketAddr) -> Result<Self, String> {
        let (inside, seq, ack) = (bed.end(station, port), 10_000, 90_000);
        let seen = bed.out(station, &Packet::tcp(inside, remote, &Segment::new(SYN, seq, 0), b""))?;
        Ok(Self { station, inside, outside: seen.from(), remote, seq: seq + 1, ack })
    }

    /// The handshake is over.
    pub(crate) fn open(bed: &mut Testbed, station: Station, port: u16, remote: SocketAddr) -> Result<Self, String> {
        let mut connection = Self::begin(bed, station, port, remote)?;
        connection.accept(bed)?;
        connection.say(bed, ACK, b"")?;
        Ok(connection)
    }

    /// The server's answer to the SYN.
    pub(crate) fn accept(&mut self, bed: &mut Testbed) -> Met {
        self.hear(bed, SYN | ACK, b"")
    }

    /// The next segment from the container; it must reach the server.
    pub(crate) fn say(&mut self, bed: &mut Testbed, flags: u8, data: &[u8]) -> Met {
        let segment = Segment::new(flags, self.seq, self.ack);
        self.out(bed, &segment, data)?;
        self.seq += data.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        Ok(())
    }

    /// The next segment from the server; it must reach the container.
    pub(crate) fn hear(&mut self, bed: &mut Testbed, flags: u8, data: &[u8]) -> Met {
        let segment = Segment::new(flags, self.ack, self.seq);
        self.back(bed, &segment, data)?;
        self.ack += data.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        Ok(())
    }

    /// Data both ways.
    pub(crate) fn talk(&mut self, bed: &mut Testbed) -> Met {
        self.say(bed, ACK, b"question")?;
        self.hear(bed, ACK, b"answer")
    }

    /// Any segment from the container; it must reach the server under the same name, and otherwise as it was.
    pub(crate) fn out(&self, bed: &mut Testbed, segment: &Segment, data: &[u8]) -> Result<Packet, String> {
        let seen = bed.out(self.station, &Packet::tcp(self.inside, self.remote, segment, data))?;
        if seen.from() != self.outside {
            return Err("the connection has another outside port".to_owned());
        }
        same(&seen, segment, data)
    }

    /// Any segment from the server; it must reach the container, otherwise as it was.
    pub(crate) fn back(&self, bed: &mut Testbed, segment: &Segment, data: &[u8]) -> Result<Packet, String> {
        let heard = bed.send(Station::Server, &Packet::tcp(self.remote, self.outside, segment, data));
        let seen = heard.one(self.station)?;
        if (seen.from(), seen.to()) != (self.remote, self.inside) {
            return Err("a segment reaches the container under other names".to_owned());
        }
        same(&seen, segment, data)
    }

    /// Both ends have said FIN, the container first, and all of it is acknowledged.
    pub(crate) fn close(&mut self, bed: &mut Testbed) -> Met {
        self.say(bed, FIN | ACK, b"")?;
        self.hear(bed, FIN | ACK, b"")?;
        self.say(bed, ACK, b"")
    }
}

fn same(seen: &Packet, segment: &Segment, data: &[u8]) -> Result<Packet, String> {
    if seen.segment().as_ref() == Some(segment) && seen.payload() == data {
        Ok(seen.clone())
    } else {
        Err("a segment arrives changed".to_owned())
    }
}
