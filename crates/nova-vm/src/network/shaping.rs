//! Bandwidth limits of containers: a token bucket on the sending side of a link.
use super::NetworkError;
use super::netlink::Netlink;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

/// How long a full bucket lasts at the limited rate, and how long a packet may wait for tokens: a
/// tenth of a second is short for people and long enough for a sender to notice.
const BUCKETS_PER_SECOND: u64 = 10;
/// Smallest bucket, bytes: the largest packet that a veth hands over at once (64 KiB with
/// segmentation offload) must fit, or it is never sent.
const BURST_MIN_BYTES: u64 = 128 * 1024;

// From linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes times itself, without a table from us.
const LINKLAYER_ETHERNET: u8 = 1;

/// Limits what the link sends, in the calling thread's namespace.
pub(super) fn limit(link: &str, bytes_per_second: u64) -> Result<(), NetworkError> {
    let netlink = Netlink::open()?;
    let index = i32::try_from(netlink.index(link)?)
        .map_err(|error| NetworkError::failed(format!("link {link}"), error))?;
    let mut message = TcMessage::with_index(index);
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("tbf".to_owned()));
    message.attributes.push(TcAttribute::Options(options(bytes_per_second)));
    netlink.replace_qdisc(link, message)
}

/// The attributes of `tbf`, as the kernel reads them.
fn options(bytes_per_second: u64) -> Vec<TcOption> {
    let burst = (bytes_per_second / BUCKETS_PER_SECOND).max(BURST_MIN_BYTES);
    let burst = u32::try_from(burst).unwrap_or(u32::MAX / 2);
    let queue = burst.saturating_mul(2);
    let rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
    // struct tc_tbf_qopt: rate, peak rate (none), queue, burst in ticks and mtu (both unused here).
    let mut parameters = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend(rate.to_ne_bytes());
    parameters.extend([0; 12]);
    parameters.extend(queue.to_ne_bytes());
    parameters.extend([0; 8]);
    let mut options = vec![
        TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters)),
        TcOption::Other(DefaultNla::new(TCA_TBF_BURST, burst.to_ne_bytes().to_vec())),
    ];
    if rate == u32::MAX {
        let rate = bytes_per_second.to_ne_bytes().to_vec();
        options.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, rate)));
    }
    options
}
