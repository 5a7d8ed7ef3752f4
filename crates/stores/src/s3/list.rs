//! Listing folders, and deleting many objects at once.

use crate::s3::{S3Store, bucket::Bucket, fault::Fault, is_hidden};
use crate::{ObjectKey, ObjectMeta, StoreError};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::{delete_objects::DeleteObjectsOutput, list_objects_v2::ListObjectsV2Output};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of one request: [the server's limit](https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html).
const BATCH: usize = 1000;

/// An object by the fields of an answer. Times are cut to seconds, for HEAD knows no more.
pub(super) fn meta(
    key: ObjectKey,
    bytes: Option<i64>,
    modified: Option<&DateTime>,
    etag: Option<&str>,
) -> Option<ObjectMeta> {
    let modified = Timestamp::from_second(modified?.secs()).ok()?;
    // Some stores leave out the quotation marks in one of the two.
    let version = etag.map(|etag| etag.trim_matches('"').to_owned());
    Some(ObjectMeta { key, bytes: u64::try_from(bytes?).ok()?, modified, version })
}

impl S3Store {
    /// See [`Store::list`](crate::Store::list).
    pub(super) async fn list_folder(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        if is_hidden(prefix) {
            return Ok(found);
        }
        let bucket = self.bucket();
        let mut from = None;
        loop {
            let page = list_page(bucket, &format!("{}/", bucket.full(prefix)), from).await;
            let page = page.map_err(|fault| bucket.error(fault, "list", prefix))?;
            for object in page.contents() {
                // Others may have objects below the prefix whose keys are none of ours.
                let key = object.key().and_then(|key| bucket.key_of(key)).filter(|key| !is_hidden(key));
                let Some(key) = key else { continue };
                let listed = meta(key.clone(), object.size(), object.last_modified(), object.e_tag());
                found.push(listed.ok_or_else(|| bucket.error(Fault::unable(WITHOUT_FIELDS), "list", &key))?);
            }
            from = next_page(&page).map_err(|fault| bucket.error(fault, "list", prefix))?;
            if from.is_none() {
                found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                return Ok(found);
            }
        }
    }

    /// See [`Store::delete_all`](crate::Store::delete_all): a thousand at a time.
    pub(super) async fn delete_batches(&self, keys: &[ObjectKey]) -> Vec<(ObjectKey, StoreError)> {
        let mut left = Vec::new();
        for batch in keys.chunks(BATCH) {
            left.extend(self.delete_batch(batch).await);
        }
        left.into_iter()
            .map(|(key, fault)| (key.clone(), self.bucket().error(fault, "delete", &key)))
            .collect()
    }

    async fn delete_batch(&self, keys: &[ObjectKey]) -> Vec<(ObjectKey, Fault)> {
        let bucket = self.bucket();
        let objects = keys.iter().map(|key| {
            ObjectIdentifier::builder().key(bucket.full(key)).build().expect("a key is all it needs")
        });
        // Not `quiet`: an object that the answer does not name as deleted is not taken for deleted.
        let delete = Delete::builder().set_objects(Some(objects.collect())).build();
        let delete = delete.expect("objects are all it needs");
        let request = bucket.client.delete_objects().bucket(&bucket.config.bucket).delete(delete);
        let send = || request.clone().customize().interceptor(BodyMd5).send();
        match bucket.ask("delete_many", send).await {
            Ok(answer) => {
                let (mut refused, untold) = sort_answer(keys, &answer, |key| bucket.key_of(key));
                refused.extend(self.delete_singly(&untold).await);
                refused
            }
            // A store without this request.
            Err(fault) if fault.is_final() => self.delete_singly(keys).await,
            // After a passing fault any of these objects may be deleted or not.
            Err(fault) => keys.iter().map(|key| (key.clone(), fault.clone())).collect(),
        }
    }

    async fn delete_singly(&self, keys: &[ObjectKey]) -> Vec<(ObjectKey, Fault)> {
        let mut left = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            match self.remove(key).await {
                Err(fault) if fault.is_final() => left.push((key.clone(), fault)),
                // A server that does not answer now will not answer for the other keys.
                Err(fault) => {
                    left.extend(keys[n..].iter().map(|key| (key.clone(), fault.clone())));
                    break;
                }
                Ok(()) => {}
            }
        }
        left
    }
}

/// The token of the page after this one; `None` after the last.
///
/// # Errors
///
/// When the store says that there is more, and not where: the page must not be taken for the whole.
fn next_page(page: &ListObjectsV2Output) -> Result<Option<String>, Fault> {
    match (page.is_truncated, &page.next_continuation_token) {
        (Some(true), None) => Err(Fault::unable(CUT_SHORT)),
        (Some(true), token) => Ok(token.clone()),
        _ => Ok(None),
    }
}

const CUT_SHORT: &str =
    "the store cuts a listing short and gives no token for the rest: it does not know ListObjectsV2";
const WITHOUT_FIELDS: &str = "the store lists an object without its length or time";

/// The objects of a batch that the store has refused to delete, and those of which its answer says nothing.
fn sort_answer(
    keys: &[ObjectKey],
    answer: &DeleteObjectsOutput,
    key_of: impl Fn(&str) -> Option<ObjectKey>,
) -> (Vec<(ObjectKey, Fault)>, Vec<ObjectKey>) {
    let refusals = answer.errors().iter().filter_map(|refusal| {
        let (code, message) = (refusal.code().unwrap_or_default(), refusal.message().unwrap_or_default());
        Some((key_of(refusal.key()?)?, Fault::refused(code, message)))
    });
    // `None`: an object that is not there is deleted already.
    let told: BTreeMap<_, _> = refusals.collect();
    let deleted: BTreeSet<_> = answer.deleted().iter().filter_map(|deleted| key_of(deleted.key()?)).collect();
    let is_told = |key: &&ObjectKey| told.contains_key(*key) || deleted.contains(*key);
    let untold = keys.iter().filter(|key| !is_told(key)).cloned().collect();
    let refused = told.into_iter().filter_map(|(key, fault)| Some((key, fault?)));
    (refused.filter(|(key, _)| keys.contains(key)).collect(), untold)
}

pub(super) async fn list_page(
    bucket: &Bucket,
    prefix: &str,
    from: Option<String>,
) -> Result<ListObjectsV2Output, Fault> {
    let list = bucket.client.list_objects_v2().bucket(&bucket.config.bucket).prefix(prefix);
    let list = list.set_continuation_token(from);
    bucket.ask("list", || list.clone().send()).await
}

/// The first key at most below a prefix.
pub(super) async fn list_one(bucket: &Bucket, prefix: &str) -> Result<ListObjectsV2Output, Fault> {
    let list = bucket.client.list_objects_v2().bucket(&bucket.config.bucket).prefix(prefix).max_keys(1);
    bucket.ask("list", || list.clone().send()).await
}

/// Gives a request the [`Content-MD5`](https://www.rfc-editor.org/rfc/rfc1864) of its body, without which MinIO
/// and Ceph delete nothing.
#[derive(Debug)]
struct BodyMd5;

impl Intercept for BodyMd5 {
    fn name(&self) -> &'static str {
        "BodyMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(body) = context.request().body().bytes() {
            let md5 = BASE64_STANDARD.encode(Md5::digest(body));
            context.request_mut().headers_mut().insert("content-md5", md5);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::fault::FaultKind;
    use aws_sdk_s3::types::{DeletedObject, Error};

    #[test]
    fn an_object_is_deleted_when_the_answer_says_so_and_not_otherwise() {
        let keys: Vec<ObjectKey> = ["a", "b", "c", "d", "e"].map(|key| key.parse().unwrap()).into();
        let error = |key: Option<&str>, code: Option<&str>| {
            Error::builder().set_key(key.map(Into::into)).set_code(code.map(Into::into)).build()
        };
        let answer = DeleteObjectsOutput::builder()
            .deleted(DeletedObject::builder().key("a").build())
            .errors(error(Some("b"), Some("AccessDenied")))
            .errors(error(Some("c"), None))
            .errors(error(Some("d"), Some("NoSuchKey")))
            .errors(error(None, Some("InternalError")))
            .build();
        let (refused, untold) = sort_answer(&keys, &answer, |key| key.parse().ok());
        let refused: Vec<_> = refused.iter().map(|(key, fault)| (key.as_str(), fault.kind)).collect();
        assert_eq!(refused, [("b", FaultKind::Denied), ("c", FaultKind::Denied)]);
        assert_eq!(untold, keys[4..], "nothing is said of it");
    }

    #[test]
    fn a_listing_that_is_cut_short_without_a_token_is_not_the_whole() {
        let page = |cut: Option<bool>, token: Option<&str>| {
            let page = ListObjectsV2Output::builder().set_is_truncated(cut);
            next_page(&page.set_next_continuation_token(token.map(Into::into)).build())
        };
        assert_eq!(page(Some(true), Some("x")).unwrap().as_deref(), Some("x"));
        assert_eq!(page(Some(false), None).unwrap(), None);
        assert_eq!(page(None, None).unwrap(), None);
        assert!(page(Some(true), None).unwrap_err().is_final());
    }
}
