// Sends files with dcmjs-dimse over one Association: node store.cjs HOST PORT FILE...
// Prints "STATUS SOP-INSTANCE-UID" for each response, status as four hex digits; exit status 1 unless all were 0000.
'use strict';

const { Client, requests, log } = require('dcmjs-dimse');

const [host, port, ...files] = process.argv.slice(2);
const client = new Client();
let stored = 0;

log.setLevel(log.levels.ERROR);
for (const file of files) {
  const request = new requests.CStoreRequest(file);
  request.on('response', (response) => {
    const status = response.getStatus();
    stored += status === 0 ? 1 : 0;
    console.log(status.toString(16).toUpperCase().padStart(4, '0'), response.getAffectedSopInstanceUid());
  });
  client.addRequest(request);
}
client.on('networkError', (error) => console.error('network error:', error));
client.on('associationRejected', (result) => console.error('rejected:', JSON.stringify(result)));
client.on('closed', () => {
  process.exitCode = stored === files.length ? 0 : 1;
});
client.send(host, Number(port), 'DCMJS', 'DICOMD');
