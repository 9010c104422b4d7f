//! A step that passes what it gets, marked; the source of an event says if something else is to
//! happen.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/mqtt", "../../../../wit/pipeline"],
    world: "eyot:pipeline/pipeline-step",
    generate_all,
});

use std::cell::Cell;

use exports::eyot::pipeline::step::{Error, Guest, Item, Setting};

struct Step;
export!(Step);

thread_local!(static MARK: Cell<bool> = const { Cell::new(true) });

impl Guest for Step {
    fn configure(settings: Vec<Setting>) -> Result<(), Error> {
        for (name, value) in settings {
            match name.as_str() {
                "mark" => MARK.set(value == "true"),
                other => return Err(Error::Config(format!("unknown setting {other}"))),
            }
        }
        Ok(())
    }

    fn process(mut batch: Vec<Item>) -> Result<Vec<Item>, Error> {
        let mark = MARK.get();
        let mut result = Ok(());
        batch.retain_mut(|item| {
            let Item::Event(event) = item else {
                return true;
            };
            match event.source.as_str() {
                "drop" => return false,
                "reject" => result = Err(Error::Rejected("as told".into())),
                "panic" => panic!("as told"),
                "spin" => loop {
                    std::hint::black_box(0);
                },
                _ => {}
            }
            if mark {
                event.tags.push(("seen".into(), "yes".into()));
            }
            true
        });
        result.map(|()| batch)
    }
}
