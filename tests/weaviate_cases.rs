//! Classes on real Weaviate servers that a restore must not delete before it is sure to bring them back: because of what
//! they refer to, of their vectors, of their tenants, or of a disk that is full.

use crate::support::weaviate_server::Start;
use crate::weaviate::{backup, decode, each, restore};
use crate::weaviate_export::{exporter, rewrite};
use crate::weaviate_faults::BOTH;
use rna_backup::base::chain;
use rna_backup::component::{ComponentError, Target};

#[tokio::test]
async fn an_export_that_does_not_say_whose_objects_are_is_refused_before_anything_is_touched() {
    each(BOTH, async |version| {
        let server = Start::version(version).server().await;
        server.fill().await;
        let weaviate = exporter(&server, None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let archive = rewrite(&archive, |text| {
            text.replace("{\"tenant\":\"wet\",", "{").replace("{\"tenant\":\"dry\",", "{")
        });
        server.spoil().await;
        let before = server.contents().await;
        for err in [
            decode(&weaviate, &archive).await.unwrap_err(),
            restore(&weaviate, &archive, &Target::Live).await.unwrap_err(),
            restore(&weaviate, &archive, &Target::Classes(vec!["Sample".to_owned()])).await.unwrap_err(),
        ] {
            let text = chain(&err);
            assert!(matches!(err, ComponentError::Corrupt { .. }), "{text}");
            assert!(
                text.contains("objects of Sample") && text.contains("--include") && text.contains("zstd -dc"),
                "{text}"
            );
        }
        assert!(server.contents().await == before);
        // The classes without tenants can be had as ever.
        let rest = Target::Classes(vec!["Document".to_owned(), "Protocol".to_owned()]);
        restore(&weaviate, &archive, &rest).await.unwrap().expect("something was there");
        assert_eq!(server.objects("Document", None).await.len() as u64, facts.counts.classes["Document"]);
    })
    .await;
}
