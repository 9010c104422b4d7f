//! A process that keeps values by key.

wit_bindgen::generate!({
    inline: "
        package test:keeper@0.1.0;
        world keeper {
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
        }
    ",
    path: ["../../../../wit/keyvalue"],
    world: "test:keeper/keeper",
    generate_all,
});

use wasi::keyvalue::{atomics, batch, store};

struct Keeper;
wasip2::cli::command::export!(Keeper);

impl wasip2::exports::cli::run::Guest for Keeper {
    fn run() -> Result<(), ()> {
        let bucket = match store::open("counts") {
            Ok(bucket) => bucket,
            Err(error) => {
                println!("denied {error:?}");
                return Ok(());
            }
        };
        println!("before {:?}", bucket.get("value").unwrap());
        println!("runs {}", atomics::increment(&bucket, "runs", 1).unwrap());
        bucket.set("value", &[1, 2, 3]).unwrap();
        println!(
            "got {:?} {} {}",
            bucket.get("value").unwrap(),
            bucket.exists("value").unwrap(),
            bucket.exists("none").unwrap()
        );
        let pairs = [("a".to_owned(), vec![65]), ("b".to_owned(), vec![66])];
        batch::set_many(&bucket, &pairs).unwrap();
        let keys = ["a".to_owned(), "c".to_owned(), "b".to_owned()];
        println!("many {:?}", batch::get_many(&bucket, &keys).unwrap());
        batch::delete_many(&bucket, &["a".to_owned()]).unwrap();
        let mut keys = bucket.list_keys(None).unwrap().keys;
        keys.sort();
        println!("keys {keys:?}");
        println!("{:?}", atomics::increment(&bucket, "value", 1).unwrap_err());
        println!("unknown {:?}", store::open("strange").err().unwrap());
        Ok(())
    }
}
