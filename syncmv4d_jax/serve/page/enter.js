// Gives the token and comes back with the cookie that is given for it.
const form = document.getElementById("form");

form.onsubmit = async event => {
  event.preventDefault();
  const token = document.getElementById("token").value;
  const answer = await fetch("/v1/session", {method: "POST", body: JSON.stringify({token})});
  if (answer.ok) location.reload();
  else document.getElementById("wrong").textContent = (await answer.json()).error.message;
};
