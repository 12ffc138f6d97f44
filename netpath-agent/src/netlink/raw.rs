//! Questions to parts of the kernel other than rtnetlink: one at a time, over a socket in the calling thread's network
//! namespace, with messages made and read by hand. Every family asked here has four bytes of its own behind the header, or more.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// How long the kernel may take. It answers while it is asked.
const PATIENCE: TimeVal = TimeVal::new(2, 0);
/// A dump comes in messages of up to 32 KiB.
const BUFFER_LEN: usize = 32 << 10;

// linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_LEN: usize = 4;

pub(super) struct Raw {
    socket: OwnedFd,
}

/// An answer: the first four bytes of the family's own, and what follows, which are attributes where the family's own
/// ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) head: [u8; 4],
    pub(super) rest: Vec<u8>,
}

impl Raw {
    /// # Errors
    /// If there is no netlink socket to be had.
    pub(super) fn open(protocol: SockProtocol) -> Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("open a netlink socket")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE).context("limit the wait for the kernel")?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("connect to the kernel")?;
        Ok(Self { socket })
    }

    /// Asks about the one thing that the attribute names.
    ///
    /// # Errors
    /// The kernel's refusal as an [`Errno`], or if it does not answer.
    pub(super) fn ask(&self, kind: u16, head: [u8; 4], attribute: (u16, &[u8])) -> Result<Answer> {
        self.send(&request(kind, NLM_F_REQUEST, head, &made(attribute)))?;
        match messages(&self.receive()?)?.into_iter().next() {
            Some(Message::Answer(answer)) => Ok(answer),
            _ => bail!("the kernel's answer is empty"),
        }
    }

    /// Asks for everything of a kind. `rest` is what the family wants to know behind `head`.
    ///
    /// # Errors
    /// As in [`Self::ask`].
    pub(super) fn dump(&self, kind: u16, head: [u8; 4], rest: &[u8]) -> Result<Vec<Answer>> {
        self.send(&request(kind, NLM_F_REQUEST | NLM_F_DUMP, head, rest))?;
        let mut answers = Vec::new();
        loop {
            for message in messages(&self.receive()?)? {
                match message {
                    Message::Answer(answer) => answers.push(answer),
                    Message::Done => return Ok(answers),
                }
            }
        }
    }

    /// Hands over messages that the family takes as one: `begin` and `end` stand around them.
    ///
    /// # Errors
    /// The kernel's first refusal as an [`Errno`], after which it has done nothing of it.
    pub(super) fn transact(&self, begin: &Part, parts: &[Part], end: &Part) -> Result<()> {
        let Some(last) = parts.len().checked_sub(1) else { return Ok(()) };
        let mut bytes = begin.message(NLM_F_REQUEST, 0);
        for (number, part) in parts.iter().enumerate() {
            let flags = if number == last { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
            bytes.extend(part.message(flags, number as u32 + 1));
        }
        bytes.extend(end.message(NLM_F_REQUEST, parts.len() as u32 + 1));
        setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() * 2)).context("make room for the messages")?;
        self.send(&bytes)?;
        // The kernel answers to what it refuses, and to the last one.
        loop {
            if let Some(Message::Done) = messages(&self.receive()?)?.into_iter().next() {
                return Ok(());
            }
        }
    }

    /// Has the kernel do something.
    ///
    /// # Errors
    /// As in [`Self::ask`].
    pub(super) fn order(&self, kind: u16, head: [u8; 4], rest: &[u8]) -> Result<()> {
        self.send(&request(kind, NLM_F_REQUEST | NLM_F_ACK, head, rest))?;
        match messages(&self.receive()?)?.first() {
            Some(Message::Done) => Ok(()),
            _ => bail!("the kernel's answer is none"),
        }
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), message, MsgFlags::empty()).context("send a netlink message").map(drop)
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; BUFFER_LEN];
        let len =
            recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("receive the kernel's answer")?;
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// A message for [`Raw::transact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: u16,
    /// The family's own header.
    pub(super) head: [u8; 4],
    pub(super) attributes: Vec<u8>,
}

impl Part {
    fn message(&self, flags: u16, sequence: u32) -> Vec<u8> {
        let mut message = request(self.kind, flags, self.head, &self.attributes);
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message
    }
}

enum Message {
    Answer(Answer),
    Done,
}

fn request(kind: u16, flags: u16, head: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + head.len() + rest.len()) as u32;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.resize(HEADER_LEN, 0);
    message.extend(head);
    message.extend(rest);
    message
}

/// The bytes of an attribute.
pub(super) fn made((kind, value): (u16, &[u8])) -> Vec<u8> {
    let mut bytes = ((ATTRIBUTE_LEN + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The messages in what was received at once.
fn messages(mut bytes: &[u8]) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = bytes.get(HEADER_LEN..len).context("the kernel's answer is cut")?;
        let head = body.split_first_chunk::<4>();
        messages.push(match (u16::from_ne_bytes([header[4], header[5]]), head) {
            (NLMSG_ERROR | NLMSG_DONE, head) => {
                let code = head.map_or(0, |(code, _)| i32::from_ne_bytes(*code));
                if code != 0 {
                    return Err(Errno::from_raw(code.wrapping_neg()).into());
                }
                Message::Done
            }
            (_, Some((head, rest))) => Message::Answer(Answer { head: *head, rest: rest.to_vec() }),
            (_, None) => bail!("the kernel's answer has no header"),
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// The value of the first attribute of this kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

/// The kinds and values of attributes, up to the first that is cut.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // The upper bits say that it is nested, or in network order.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<ATTRIBUTE_LEN>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_is_no_panic() {
        let whole = request(0x10, 0, [1, 1, 0, 0], &made((3, &5u64.to_ne_bytes())));
        let read = |bytes: &[u8]| match messages(bytes).ok()?.pop()? {
            Message::Answer(answer) => Some(answer),
            Message::Done => None,
        };
        let answer = read(&whole).unwrap();
        assert_eq!(answer.head, [1, 1, 0, 0]);
        assert_eq!(attribute(&answer.rest, 3), Some(&5u64.to_ne_bytes()[..]));
        assert_eq!(attribute(&answer.rest, 4), None);
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None);
        }
        for len in 0..answer.rest.len() {
            assert_eq!(attribute(&answer.rest[..len], 3), None);
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error_also_at_the_end_of_a_dump() {
        let code = (-(Errno::ENOENT as i32)).to_ne_bytes();
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let refused = messages(&request(kind, 0, code, &[])).err().unwrap();
            assert_eq!(refused.downcast_ref(), Some(&Errno::ENOENT));
            let done = messages(&request(kind, 0, [0; 4], &[])).unwrap();
            assert!(matches!(done[..], [Message::Done]));
        }
    }
}
