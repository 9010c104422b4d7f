//! A step that keeps the sum of payloads' lengths, and says it when time has passed.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/mqtt", "../../../../wit/pipeline"],
    world: "eyot:pipeline/pipeline-accumulator",
    generate_all,
});

use exports::eyot::pipeline::{step, timer};
use eyot::pipeline::{
    memory,
    types::{Error, Item, Payload, Setting},
};

struct Window;
export!(Window);

const SUM: &str = "sum";

fn sum() -> u64 {
    let text = memory::get(SUM).unwrap_or_default();
    String::from_utf8(text).unwrap().parse().unwrap_or_default()
}

impl step::Guest for Window {
    fn configure(_: Vec<Setting>) -> Result<(), Error> {
        Ok(())
    }

    fn process(batch: Vec<Item>) -> Result<Vec<Item>, Error> {
        let mut sum = sum();
        for item in &batch {
            let Item::Payload(payload) = item else {
                continue;
            };
            sum += payload.data.len() as u64;
            memory::set(SUM, sum.to_string().as_bytes()).map_err(Error::Rejected)?;
            match payload.destination.as_str() {
                "reject" => return Err(Error::Rejected("as told".into())),
                "panic" => panic!("as told"),
                _ => {}
            }
        }
        memory::wake_after(20);
        Ok(Vec::new())
    }
}

impl timer::Guest for Window {
    fn tick() -> Result<Vec<Item>, Error> {
        let sum = sum();
        if sum == 0 {
            return Ok(Vec::new());
        }
        memory::set(SUM, &[]).unwrap();
        Ok(vec![Item::Payload(Payload {
            media_type: "text/plain".into(),
            destination: "sum".into(),
            data: sum.to_string().into_bytes(),
            device: String::new(),
        })])
    }
}
