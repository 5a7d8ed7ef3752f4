//! Signed orders: whoever can write to the broker could otherwise delete or overwrite data.

use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

/// The message header that holds the signature.
pub const HEADER: &str = "rna_backup_signature";

/// The longest age of a signature, and the furthest that it may lie in the future: clocks differ.
const LIFE: SignedDuration = SignedDuration::from_mins(15);

/// The part of a task message that is signed.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Id of the task.
    pub task_id: &'a str,
    /// The name of the task.
    pub task: &'a str,
    /// The serialised body, before base64.
    pub body: &'a [u8],
}

/// A signature that fits its order. What it allows, it allows once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    made: Timestamp,
    bytes: [u8; 32],
}

impl Signature {
    /// True if the signature was made within the last quarter of an hour, or will be in the next: clocks differ.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.made.duration_since(now).abs() <= LIFE
    }

    /// The time for another signature of the same order, at `at` or soon after: made within the same second
    /// it would be this one.
    pub fn another(&self, at: Timestamp) -> Timestamp {
        at.max(self.made + SignedDuration::from_secs(1))
    }

    /// The signature alone, in hex: no two orders have the same.
    pub fn name(&self) -> String {
        hex::encode(self.bytes)
    }
}

/// The reason that an order is not obeyed. Nothing was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The message has no signature.
    #[error(
        "this task must be signed, because BACKUP_RESTORE_KEY is set, and the header {HEADER} is missing"
    )]
    Missing,
    /// The header is not of the form `v1:<unix seconds>:<hex>`.
    #[error("the header {HEADER} is not of the form v1:<unix seconds>:<64 hex digits>")]
    Malformed,
    /// The signature was made too long ago, or in the future.
    #[error("the signature is older than 15 minutes or from the future: order anew, and compare the clocks")]
    Stale,
    /// The signature was obeyed before.
    #[error("the order of this signature was carried out before: order anew")]
    Used,
    /// The use of the signature could not be noted, so it would be obeyed once more later.
    #[error("cannot note in BACKUP_ROOT that the order is carried out, so it is not")]
    Unnoted,
    /// The signature is not ours, or the message was changed.
    #[error("the signature does not fit: is BACKUP_RESTORE_KEY the same on both sides?")]
    Wrong,
}

/// Checks `header` = `v1:<unix seconds>:<hex HMAC-SHA256>` over `v1 \n seconds \n task id \n task
/// name \n body`; whether it is [fresh](Signature::is_fresh), and was not used, is for the caller to see to.
///
/// # Errors
///
/// [`SignatureError`]: the order must not be obeyed.
pub fn verify(key: &str, header: Option<&str>, order: &Order) -> Result<Signature, SignatureError> {
    let header = header.ok_or(SignatureError::Missing)?;
    let (seconds, bytes) = parse(header).ok_or(SignatureError::Malformed)?;
    // The comparison takes the same time wherever the first difference is.
    mac(key, seconds, order).verify_slice(&bytes).map_err(|_| SignatureError::Wrong)?;
    let made = Timestamp::from_second(seconds).map_err(|_| SignatureError::Malformed)?;
    Ok(Signature { made, bytes })
}

/// The header that [`verify`] accepts: for tests and for tools that order tasks.
pub fn sign(key: &str, order: &Order, now: Timestamp) -> String {
    format!(
        "v1:{}:{}",
        now.as_second(),
        hex::encode(mac(key, now.as_second(), order).finalize().into_bytes())
    )
}

fn mac(key: &str, seconds: i64, order: &Order) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("v1\n{seconds}\n{}\n{}\n", order.task_id, order.task).as_bytes());
    mac.update(order.body);
    mac
}

fn parse(header: &str) -> Option<(i64, [u8; 32])> {
    let (seconds, digits) = header.strip_prefix("v1:")?.split_once(':')?;
    let mut signature = [0; 32];
    hex::decode_to_slice(digits, &mut signature).ok()?;
    Some((seconds.parse().ok()?, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Order<'_> = Order { task_id: "id-1", task: "t.clean", body: b"[[], {}, {}]" };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_signature_is_that_of_any_other_implementation() {
        // printf 'v1\n1000\nid-1\nt.clean\n[[], {}, {}]' | openssl dgst -sha256 -hmac key
        assert_eq!(
            sign("key", &ORDER, at(1000)),
            "v1:1000:b6659e3ee28ebeed3e73fc7cbf000b2ab3882aedb53d5eaa80067ab185035cc7"
        );
    }

    #[test]
    fn only_a_signature_of_this_very_order_fits_and_not_for_long() {
        let header = sign("key", &ORDER, at(1000));
        let check = |order: &Order| verify("key", Some(&header), order);
        let signature = check(&ORDER).unwrap();
        assert!(signature.is_fresh(at(1000 + 15 * 60)) && !signature.is_fresh(at(1001 + 15 * 60)));
        assert!(!signature.is_fresh(at(0)));
        assert!(header.ends_with(&signature.name()));
        assert_eq!(check(&Order { task_id: "id-2", ..ORDER }), Err(SignatureError::Wrong));
        assert_eq!(check(&Order { task: "t.undo", ..ORDER }), Err(SignatureError::Wrong));
        assert_eq!(check(&Order { body: b"[[0], {}, {}]", ..ORDER }), Err(SignatureError::Wrong));
        let later = header.replace("v1:1000:", "v1:2000:");
        assert_eq!(verify("key", Some(&later), &ORDER), Err(SignatureError::Wrong));
        assert_eq!(verify("other", Some(&header), &ORDER), Err(SignatureError::Wrong));
        assert_eq!(verify("key", None, &ORDER), Err(SignatureError::Missing));
        for odd in [
            "",
            "v1:",
            "v2:1000:00",
            "v1:1000:zz",
            "v1:x:".to_owned().as_str(),
            &format!("v1:1:{}", "é".repeat(32)),
        ] {
            assert_eq!(verify("key", Some(odd), &ORDER), Err(SignatureError::Malformed), "{odd}");
        }
    }
}
