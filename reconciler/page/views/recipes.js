/** Recipes for using an instance from other programs. */
import { html } from '../js/html.js';
import { get } from '../js/api.js';
import { Copyable, Failure, useResource } from '../js/ui.js';

export function Recipes({ name }) {
  const path = `/api/v1/recipes?name=${encodeURIComponent(name)}`;
  const { data, error } = useResource((signal) => get(path, { signal }), [name]);
  return html`<${Failure} error=${error} />
    ${data?.recipes.map((one) => html`<details class="recipe"><summary>${one.title}</summary>
      <p class="muted">${one.hint}</p>
      <${Copyable} label="Recipe for ${one.title}" text=${one.text} /></details>`)}`;
}
