import t from 'tap';
import { WaitBudget } from '../../../src/base/wait-budget.ts';

t.test('waiting goes on as long as it pays', async t => {
  const budget = new WaitBudget(50);
  for (let wait = 0; wait < 1000; wait++) {
    t.equal(budget.next(), 50);
    budget.waited(wait % 10 !== 0);
  }
});

t.test('waits that do not pay stop, but for a trial now and then', async t => {
  const budget = new WaitBudget(50);
  let waits = 0;
  for (let chance = 0; chance < 3200; chance++) {
    if (budget.next() === 0) continue;
    waits += 1;
    budget.waited(false);
  }
  t.ok(waits >= 90 && waits <= 110, `${waits} of 3200`);
});

t.test('when waiting pays again, it is taken up again', async t => {
  const budget = new WaitBudget(50);
  for (let chance = 0; chance < 320; chance++) if (budget.next() > 0) budget.waited(false);
  let waits = 0;
  for (let chance = 0; chance < 320; chance++) {
    if (budget.next() === 0) continue;
    waits += 1;
    budget.waited(true);
  }
  t.ok(waits > 280, `${waits} of 320`);
});

t.test('a budget of nothing never waits', async t => {
  const budget = new WaitBudget(0);
  for (let chance = 0; chance < 100; chance++) t.equal(budget.next(), 0);
});
