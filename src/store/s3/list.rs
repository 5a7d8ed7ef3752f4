//! Listing folders, and deleting many objects at once.

use crate::store::s3::{S3Store, bucket::Bucket, fault::Fault, is_hidden};
use crate::store::{ObjectKey, ObjectMeta, StoreError};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use md5::{Digest as _, Md5};

/// Keys of one request: [the server's limit](https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html).
const BATCH: usize = 1000;

/// An object by the fields of an answer. Times are cut to seconds, for HEAD knows no more.
pub(super) fn meta(key: ObjectKey, bytes: Option<i64>, modified: Option<&DateTime>) -> Option<ObjectMeta> {
    let modified = Timestamp::from_second(modified?.secs()).ok()?;
    Some(ObjectMeta { key, bytes: u64::try_from(bytes?).ok()?, modified })
}

impl S3Store {
    /// See [`Store::list`](crate::store::Store::list).
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
            found.extend(page.contents().iter().filter_map(|object| {
                let key = bucket.key_of(object.key()?).filter(|key| !is_hidden(key))?;
                meta(key, object.size(), object.last_modified())
            }));
            // A server that says that there is more, and not where, would have us ask for ever.
            from = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            if from.is_none() {
                found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                return Ok(found);
            }
        }
    }

    /// See [`Store::delete_all`](crate::store::Store::delete_all): a thousand at a time.
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
        let delete = Delete::builder().set_objects(Some(objects.collect())).quiet(true).build();
        let delete = delete.expect("objects are all it needs");
        let request = bucket.client.delete_objects().bucket(&bucket.config.bucket).delete(delete);
        let send = || request.clone().customize().interceptor(BodyMd5).send();
        match bucket.ask("delete_many", send).await {
            Ok(answer) => {
                let refused = answer.errors().iter().filter_map(|refusal| {
                    let key = bucket.key_of(refusal.key()?)?;
                    let fault = Fault::refused(refusal.code()?, refusal.message().unwrap_or_default())?;
                    Some((key, fault))
                });
                refused.collect()
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
