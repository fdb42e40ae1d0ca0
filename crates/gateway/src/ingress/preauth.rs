//! How many sockets of one address may be unauthenticated at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct PreauthBudget {
    per_ip_max: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One socket's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    ip: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl PreauthBudget {
    pub(crate) fn new(per_ip_max: usize) -> Self {
        Self {
            per_ip_max,
            open: Arc::default(),
        }
    }

    /// `None` when the address has used up its share.
    pub(crate) fn acquire(&self, ip: IpAddr) -> Option<Permit> {
        // An IPv4 client on an IPv6 socket is the same client.
        let ip = ip.to_canonical();
        let mut open = self.open.lock();
        let count = open.entry(ip).or_default();
        if *count >= self.per_ip_max {
            return None;
        }
        *count += 1;
        Some(Permit {
            ip,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_per_address_and_come_back() {
        let budget = PreauthBudget::new(1);
        let plain: IpAddr = "192.0.2.1".parse().expect("address");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("address");
        let held = budget.acquire(plain).expect("first");
        assert!(
            budget.acquire(mapped).is_none(),
            "the same client by another name"
        );
        assert!(
            budget
                .acquire("192.0.2.2".parse().expect("address"))
                .is_some()
        );
        drop(held);
        assert!(budget.acquire(mapped).is_some());
        assert!(
            budget.open.lock().is_empty(),
            "nothing is remembered of addresses without sockets"
        );
    }
}
