// A click on whatever has `data-act` is told to Python; after an update the same button has the focus again.
let last = null;
const keyOf = button => button.dataset.act + button.dataset.row;
element.addEventListener('click', event => {
    const button = event.target.closest('button[data-act]');
    if (!button) return;
    last = keyOf(button);
    trigger('click', {act: button.dataset.act, row: Number(button.dataset.row)});
});
watch('value', () => {
    if (last === null) return;
    const buttons = [...element.querySelectorAll('button[data-act]:not([disabled])')];
    buttons.find(button => keyOf(button) === last)?.focus({preventScroll: true});
    last = null;
});
