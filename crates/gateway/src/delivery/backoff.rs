//! What follows from a failed attempt, and when. Pure.

use std::time::Duration;

use channels::SendError;

/// Next step of a message that was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Again after this long. `whole_account`: nothing else of the account has a chance before.
    Retry {
        after: Duration,
        whole_account: bool,
    },
    /// It may have arrived.
    Doubt,
    Bury,
}

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// A person has to act; looking again is cheap.
const UNAUTHORIZED: Duration = Duration::from_secs(5 * 60);

/// `attempts`: made so far, this one included. `share`: in 0..1, the jitter.
pub(super) fn next(error: &SendError, attempts: u32, attempts_max: u32, share: f64) -> Next {
    let last = attempts >= attempts_max;
    match error {
        SendError::Unknown { .. } => Next::Doubt,
        SendError::Rejected { .. } | SendError::Unsupported { .. } => Next::Bury,
        SendError::Retry { .. } | SendError::Unauthorized { .. } if last => Next::Bury,
        SendError::Unauthorized { .. } => Next::Retry {
            after: UNAUTHORIZED,
            whole_account: true,
        },
        SendError::Retry {
            after: Some(after), ..
        } => Next::Retry {
            // The service's own wish, and a little more for those who wait with us.
            after: *after + Duration::from_millis(250).mul_f64(share),
            whole_account: true,
        },
        SendError::Retry { after: None, .. } => Next::Retry {
            after: pause(attempts, share),
            whole_account: false,
        },
    }
}

/// Doubles from [`FIRST`] to [`LONGEST`]; between half and all of it.
pub(super) fn pause(attempts: u32, share: f64) -> Duration {
    let full = FIRST
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(LONGEST);
    full / 2 + (full / 2).mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_failure_has_its_next_step() {
        let retry = |after| SendError::Retry {
            after,
            reason: String::new(),
        };
        let reason = String::new;
        assert_eq!(
            next(&SendError::Unknown { reason: reason() }, 1, 3, 0.5),
            Next::Doubt
        );
        assert_eq!(
            next(&SendError::Rejected { reason: reason() }, 1, 3, 0.5),
            Next::Bury
        );
        assert_eq!(next(&retry(None), 3, 3, 0.5), Next::Bury);
        assert_eq!(
            next(&retry(Some(Duration::from_secs(7))), 1, 3, 0.0),
            Next::Retry {
                after: Duration::from_secs(7),
                whole_account: true
            }
        );
        assert!(matches!(
            next(&SendError::Unauthorized { reason: reason() }, 1, 3, 0.5),
            Next::Retry {
                whole_account: true,
                ..
            }
        ));
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_bounds(attempts in 0_u32..1000, share in 0.0_f64..1.0) {
            let pause = pause(attempts, share);
            prop_assert!(pause >= FIRST / 2);
            prop_assert!(pause <= LONGEST);
        }
    }
}
