//! Rules of nf_tables, read as far as those of iptables go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::sys::socket::SockProtocol;

use super::{NFNL_SUBSYS_NFTABLES, family, text};
use crate::netlink::raw::{Answer, Raw, attribute, attributes};

// linux/netfilter/nf_tables.h.
const NFT_MSG_GETRULE: u16 = 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_KEY: u16 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// Of `match` and `target`, which are extensions of iptables'.
const NFTA_EXTENSION_NAME: u16 = 1;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
const IFNAMSIZ: usize = 16;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `ip`, `ip6` or `inet`
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    /// What the kernel calls it, in its table.
    pub handle: u64,
    /// What a packet has to be for the verdict.
    pub terms: Vec<Term>,
    pub verdict: Verdict,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    Input {
        is_equal: bool,
        ifname: String,
    },
    Output {
        is_equal: bool,
        ifname: String,
    },
    Source {
        is_equal: bool,
        net: IpNet,
    },
    Destination {
        is_equal: bool,
        net: IpNet,
    },
    /// A protocol or a port.
    Transport,
    /// An extension of iptables', by name.
    Match(String),
    Unknown,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    None,
    Accept,
    Drop,
    Return,
    /// The name of the chain.
    Jump(String),
    /// A target of iptables', by name.
    Target(String),
}

/// Every rule of the families with IP packets.
///
/// # Errors
/// If the kernel has no nf_tables, or the caller may not look.
pub fn rules() -> Result<Vec<Rule>> {
    let raw = Raw::open(SockProtocol::NetlinkNetFilter)?;
    let rules =
        raw.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, [0; 4], &[]).context("list the rules of nf_tables")?;
    Ok(rules.iter().filter_map(rule).collect())
}

fn rule(answer: &Answer) -> Option<Rule> {
    let text = |kind| attribute(&answer.rest, kind).map(text);
    let expressions = attribute(&answer.rest, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    let (terms, verdict) = understand(expressions);
    Some(Rule {
        family: family(answer)?,
        table: text(NFTA_RULE_TABLE)?,
        chain: text(NFTA_RULE_CHAIN)?,
        handle: u64::from_be_bytes(attribute(&answer.rest, NFTA_RULE_HANDLE)?.try_into().ok()?),
        terms,
        verdict,
    })
}

/// What the last expression has put into a register.
enum Loaded {
    Nothing,
    Input,
    Output,
    Transport,
    Address { is_source: bool, is_ipv6: bool, mask: Option<Vec<u8>> },
    Unknown,
}

/// Reads expressions one after another, as iptables writes them: each register is compared right after it was loaded.
fn understand(expressions: &[u8]) -> (Vec<Term>, Verdict) {
    let (mut terms, mut verdict, mut loaded) = (Vec::new(), Verdict::None, Loaded::Nothing);
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        match name.as_str() {
            "counter" => {}
            "meta" => {
                loaded = match number(data, NFTA_META_KEY) {
                    Some(NFT_META_IIFNAME) => Loaded::Input,
                    Some(NFT_META_OIFNAME) => Loaded::Output,
                    Some(NFT_META_L4PROTO) => Loaded::Transport,
                    _ => Loaded::Unknown,
                }
            }
            "payload" => loaded = payload(data),
            "bitwise" => {
                let given = attribute(data, NFTA_BITWISE_MASK).and_then(|mask| attribute(mask, NFTA_DATA_VALUE));
                if let Loaded::Address { mask, .. } = &mut loaded {
                    *mask = given.map(<[u8]>::to_vec);
                }
            }
            "cmp" => terms.push(compared(std::mem::replace(&mut loaded, Loaded::Nothing), data)),
            "match" => terms.push(Term::Match(attribute(data, NFTA_EXTENSION_NAME).map(text).unwrap_or_default())),
            "target" => verdict = Verdict::Target(attribute(data, NFTA_EXTENSION_NAME).map(text).unwrap_or_default()),
            "masq" => verdict = Verdict::Target("MASQUERADE".to_owned()),
            "immediate" => {
                let data = attribute(data, NFTA_IMMEDIATE_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT));
                match data.and_then(decided) {
                    Some(decided) => verdict = decided,
                    None => terms.push(Term::Unknown),
                }
            }
            _ => terms.push(Term::Unknown),
        }
    }
    (terms, verdict)
}

fn payload(data: &[u8]) -> Loaded {
    let (base, offset) = (number(data, NFTA_PAYLOAD_BASE), number(data, NFTA_PAYLOAD_OFFSET));
    let len = number(data, NFTA_PAYLOAD_LEN);
    let address = |is_source, is_ipv6| Loaded::Address { is_source, is_ipv6, mask: None };
    match (base, offset, len) {
        (Some(NFT_PAYLOAD_TRANSPORT_HEADER), ..) => Loaded::Transport,
        // The protocol of IPv4, the next header of IPv6.
        (Some(NFT_PAYLOAD_NETWORK_HEADER), Some(9 | 6), Some(1)) => Loaded::Transport,
        // A prefix of whole bytes is loaded as that many.
        (Some(NFT_PAYLOAD_NETWORK_HEADER), Some(offset @ (12 | 16)), Some(1..=4)) => address(offset == 12, false),
        (Some(NFT_PAYLOAD_NETWORK_HEADER), Some(offset @ (8 | 24)), Some(1..=16)) => address(offset == 8, true),
        _ => Loaded::Unknown,
    }
}

fn compared(loaded: Loaded, data: &[u8]) -> Term {
    let is_equal = match number(data, NFTA_CMP_OP) {
        Some(NFT_CMP_EQ) => true,
        Some(NFT_CMP_NEQ) => false,
        _ => return Term::Unknown,
    };
    let Some(value) = attribute(data, NFTA_CMP_DATA).and_then(|data| attribute(data, NFTA_DATA_VALUE)) else {
        return Term::Unknown;
    };
    match loaded {
        // Without an end it is a beginning, `docker+`.
        Loaded::Input | Loaded::Output if value.len() < IFNAMSIZ && !value.contains(&0) => Term::Unknown,
        Loaded::Input => Term::Input { is_equal, ifname: ifname(value) },
        Loaded::Output => Term::Output { is_equal, ifname: ifname(value) },
        Loaded::Transport => Term::Transport,
        Loaded::Address { is_source, is_ipv6, mask } => match (net(value, is_ipv6, mask.as_deref()), is_source) {
            (Some(net), true) => Term::Source { is_equal, net },
            (Some(net), false) => Term::Destination { is_equal, net },
            (None, _) => Term::Unknown,
        },
        Loaded::Nothing | Loaded::Unknown => Term::Unknown,
    }
}

fn ifname(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// The prefix that begins with these bytes, or the bytes under a mask.
fn net(value: &[u8], is_ipv6: bool, mask: Option<&[u8]>) -> Option<IpNet> {
    let len = match mask {
        Some(mask) => u8::try_from(mask.iter().map(|byte| byte.leading_ones()).sum::<u32>()).ok()?,
        None => u8::try_from(value.len() * 8).ok()?,
    };
    let mut bytes = [0; 16];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    let [a, b, c, d, ..] = bytes;
    let addr: IpAddr = if is_ipv6 { Ipv6Addr::from(bytes).into() } else { Ipv4Addr::new(a, b, c, d).into() };
    IpNet::new(addr, len).ok()
}

fn decided(verdict: &[u8]) -> Option<Verdict> {
    let chain = || attribute(verdict, NFTA_VERDICT_CHAIN).map(text).map(Verdict::Jump);
    match number(verdict, NFTA_VERDICT_CODE)? as i32 {
        NF_DROP => Some(Verdict::Drop),
        NF_ACCEPT => Some(Verdict::Accept),
        NFT_RETURN => Some(Verdict::Return),
        NFT_JUMP | NFT_GOTO => chain(),
        _ => None,
    }
}

fn number(data: &[u8], kind: u16) -> Option<u32> {
    attribute(data, kind)?.try_into().ok().map(u32::from_be_bytes)
}
